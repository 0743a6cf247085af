"""Words of sentences, held against what the reference makes of them, and vocabularies."""

from __future__ import annotations

import pytest

from zoo.spec import SPECIAL_WORDS, CaptionSpec, ImageSpec
from zoo.text.tokenization import ABBREVIATIONS, build_vocabulary, tokenize

# the second of each is the answer of pycocoevalcap 1.2, PTBTokenizer with Stanford CoreNLP 3.4.1 in Java
HARD = [
    ("A man 's dog runs .", "a man 's dog runs"),
    ("The man's dogs' toys aren't here; they don't care.", "the man 's dogs toys are n't here they do n't care"),
    (
        "He can't, won't and shouldn't've; I'm sure we'd, you'll, they've.",
        "he ca n't wo n't and should n't 've i 'm sure we 'd you 'll they 've",
    ),
    ("Don't ISN'T didn’t it’s", "do n't is n't did n't it 's"),
    ("Y'all cannot say 'tis gonna, gotta, wanna, gimme, lemme", "y' all can not say 't is gon na got ta wan na gim me lem me"),
    ("\"Stop!\" said the boy, 'and wait.' “So” she ‘did’ ...", "stop said the boy and wait so she did"),
    ("''quoted'' ``quoted`` \"it\" 5'10\" 6' 2\"", "quoted quoted it 5 10 6 2"),
    ("wait... wait.. wait .... wait… well!! what?! no!", "wait wait wait wait well !! what ?! no"),
    (
        "A t-shirt, a half-pipe's end - a merry-go-round -- jack-o-lantern — and so–on ---- -----",
        "a t-shirt a half-pipe 's end a merry-go-round jack-o-lantern and so on -----",
    ),
    ("a hyphen- at the end and -in front", "a hyphen at the end and in front"),
    ("A sign (in red) [sic] {x} and a dog(s)", "a sign -lrb- in red -rrb- -lsb- sic -rsb- -lcb- x -rcb- and a dog -lrb- s -rrb-"),
    (
        "Mr. Smith of St. Louis vs. Dr. J.R. Jones, Jr. Etc., and the Co. of Ark.",
        "mr. smith of st. louis vs. dr. j.r. jones jr. etc. and the co. of ark.",
    ),
    (
        "He lives in the U.S. The cat is at 5 p.m. in Washington D.C.",
        "he lives in the u.s. the cat is at 5 p.m. in washington d.c.",
    ),
    (
        "non-U.S. teams, a U.S.-based R.V. , two R.V.s and TVs, a Ph.D.",
        "non-u.s. teams a u.s.-based r.v. two r.v.s and tvs a ph.d.",
    ),
    (
        "The end of no. 5 and No. Number no. is ill. in mass. on Sun. or Fri. at noon.",
        "the end of no. 5 and no number no is ill in mass on sun or fri. at noon",
    ),
    ("plan B. The dog, plan b. and the letter X.", "plan b the dog plan b. and the letter x."),
    ("no space here.There it is,isn't it?yes wow!dog", "no space here.there it is is n't it?yes wow!dog"),
    (
        "1,000 dogs, 5.5 cats, .5 birds, 1,000,000.50 ants ,3 and -5 +5 1,2",
        "1,000 dogs 5.5 cats .5 birds 1,000,000.50 ants ,3 and -5 +5 1,2",
    ),
    ("$5 $1,000.50 US$5 £5 €5 5¢ 50% #1 #tag @user", "$ 5 $ 1,000.50 us$ 5 # 5 $ 5 5 cents 50 % # 1 #tag @user"),
    ("at 5:30 or 5:30pm or 12:30-1 on 9/11/2001, 24/7", "at 5:30 or 5:30 pm or 12:30 -1 on 9/11/2001 24/7"),
    ("1/2 cup, 1-1/2 cups, 3½ cups, ¼ cup 1 1/2", "1/2 cup 1-1/2 cups 3 1/2 cups 1/4 cup 1 1/2"),
    (
        "1st 2nd 3D 3-D 4x4 mp3 3-year-old 1,000-foot 5ft 6ft. 10-20 1990s",
        "1st 2nd 3d 3-d 4x4 mp3 3-year-old 1,000-foot 5ft 6ft 10-20 1990s",
    ),
    (
        "'90s 80's '08 the '20s, rock 'n' roll rock'n'roll 'em 'til 'cause",
        "'90s 80 's '08 the '20s rock 'n' roll rock 'n' roll 'em 'til 'cause",
    ),
    (
        "o'clock O'Neil d'Artagnan ma'am c'mon Shi'ite Qur'an l'eau ol' Dunkin' Donuts",
        "o'clock o'neil d'artagnan ma'am c'mon shi'ite qur an l'eau ol' dunkin' donuts",
    ),
    ("black and/or white, w/o w/ black/white/gray a / b", "black and/or white w/o w / black/white/gray a / b"),
    ("AT&T R&B r&b M&M's A & B", "at&t r&b r & b m&m 's a & b"),
    ("café naïve über São café 東京 русский", "café naïve über são café 東京 русский"),
    ("a © b™ ® • ★ × − = + ~ ^ | < > % * ** _ a_b @ 😀 ❤️ \\", "a © b ™ ® • ★ × − = + ~ ^ | < > % * ** _ a_b @ ❤ \\"),
    (":) ;-) :D hello:)", ":-rrb- ;--rrb- :d hello :-rrb-"),
    ("www.foo.com statefarm.com http://foo.com/bar foo@bar.com", "www.foo.com statefarm.com http://foo.com/bar foo@bar.com"),
    ("color center gray theatre", "color center gray theatre"),
    ("tabs\tand  spaces\xa0and soft\xadhyphens", "tabs and spaces and softhyphens"),
    (".", ""),
    ("", ""),
]


@pytest.mark.parametrize(("sentence", "words"), HARD)
def test_hard_sentences_are_split_as_by_the_reference(sentence, words):
    assert tokenize(sentence) == words.split()


@pytest.mark.parametrize("word", [*ABBREVIATIONS.split()[::7], "Ill", "St", "dog", "Cannot", "cannots", "gotta", "I", "İ", "ſt"])
@pytest.mark.parametrize("end", ["", ".", " .", "..", ". ", "\u00a0.", " . x"])
def test_plain_sentences_are_split_as_by_the_rules(word, end, monkeypatch):
    sentence = f"A man rides {word}{end}"
    quick = tokenize(sentence)
    monkeypatch.setattr("zoo.text.tokenization._plain_words", lambda text: None)
    assert tokenize(sentence) == quick


def test_a_vocabulary_has_frequent_words_first_and_ties_in_alphabetical_order():
    sentences = [["b", "a", "dog"], ["a", "dog", "cat"], ["cat", "a"], ["rare"]]
    assert build_vocabulary(iter(sentences), min_count=2) == (*SPECIAL_WORDS, "a", "cat", "dog")
    assert build_vocabulary(sentences, min_count=1) == (*SPECIAL_WORDS, "a", "cat", "dog", "b", "rare")


def test_a_vocabulary_without_words_still_has_the_special_ones():
    assert build_vocabulary([], min_count=1) == SPECIAL_WORDS


def test_a_spec_takes_the_vocabulary_and_gives_the_words_back():
    words = tokenize("A dog doesn't bark.")
    spec = CaptionSpec(ImageSpec(3, 8, 8, classes=()), build_vocabulary([words], min_count=1), length=6)
    assert spec.decode(spec.encode(words)) == ["a", "dog", "does", "n't", "bark"]
