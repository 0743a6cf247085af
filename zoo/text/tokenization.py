"""Word tokenization, as published metrics of captions are computed on, and the vocabulary of a data set.

The reference is pycocoevalcap's PTBTokenizer, which runs Stanford's tokenizer for the Penn Treebank (3.4.1, in Java) and drops
punctuation. Its rules and its abbreviations were found by asking it about the words of two dictionaries, all strings of up to
four letters, the signs of Unicode and random sentences. They agree on every caption of Flickr8k. They differ on what captions do
not have: marks of HTML, telephone numbers with an area code in brackets, c++, most smileys.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable

from zoo.spec import SPECIAL_WORDS

# words whose full stop is a part of them, as it is of single letters
ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros calif capt cf cie cmdr co col colo
    comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp
    intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg
    natl neb nev nov oct okla penn pfc ph plc ppte ppty pres prof profs pte ptes pty ptys pvt rd rep reps rev rt sen sens sep
    sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm wyo
"""
CAPITAL_ABBREVIATIONS = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"  # states; in lower case they are other words
NUMBERED_ABBREVIATIONS = "art ca fig figs no nos op pp prop"  # only in front of a number

SENTENCE_STARTERS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once One Other Our
    She Since So Some Such That The Their Then There These They This We What When While Yet You
"""  # a single letter in front of them ends a sentence

PLAIN = str.maketrans(
    {
        **dict.fromkeys("‘’‛‹›", "'"),
        **dict.fromkeys("“”«»", '"'),
        **dict.fromkeys("–—―", " -- "),
        "€": "$",
        "£": "#",
        "¢": " cents ",
        "\xad": "",  # a soft hyphen marks where a line may break
        **{sign: f" {fraction} " for sign, fraction in zip("¼½¾⅓⅔", ("1/4", "1/2", "3/4", "1/3", "2/3"), strict=True)},
    }
)
BRACKETS = str.maketrans({"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"})
COMPOUNDS = ("cannot", "gonna", "wanna", "gotta", "gimme", "lemme")  # become two words
WITH_STOP = frozenset(f"{ABBREVIATIONS} {CAPITAL_ABBREVIATIONS} {NUMBERED_ABBREVIATIONS}".lower().split())
PUNCTUATION = frozenset(["'", '"', "`", ".", "…", "?", "!", ",", ":", ";", "-", "--", "---", "----"])

LETTER = r"(?:[^\W\d_]|[\u0300-\u036f])"  # also accents that are characters of their own
PART = rf"(?:(?:{LETTER}|\d)+)"
ENDS = r"(?!\w|[-./]\w)"  # no hyphen, stop or slash leads on to more of the same word
CONTRACTION = r"'(?:[smd]|re|ve|ll)(?!\w)"
PREFIX = rf"(?-i:[A-HJ-XZdlno])'{LETTER}"  # of O'Neil, d'Artagnan, rock n'roll


def _either(*words: str) -> str:
    return f"(?:{'|'.join(words)})"


def _title_or_upper(words: str) -> str:
    return f"(?-i:{_either(*words.title().split(), *words.upper().split())})"


ABBREVIATION = _either(
    rf"(?:{PART}-)*[a-z](?:\.[a-z])+\.(?!\w)",  # u.s., non-U.S.
    r"ph\.d\.",
    rf"{_either(*ABBREVIATIONS.split())}\.(?!\w)",
    rf"{_title_or_upper(CAPITAL_ABBREVIATIONS)}\.(?!\w)",
    rf"{_either(*NUMBERED_ABBREVIATIONS.split())}\.(?=\s*\d)",
    rf"[a-z]\.(?!{LETTER}|\s+{_title_or_upper(SENTENCE_STARTERS)}(?!\S))",
)
# in each place the first of these that fits is the word; none may go back far over what it read, or long input takes forever
RULES = (
    rf"(?!{_either(*COMPOUNDS)})[a-z]+(?!\S)",  # most words, at once
    r"https?://[^\s\"<>|()]+[^\s\"<>|().,!?-]|[\w.+-]{1,64}@\w+(?:[.-]\w+)+|[@#][a-z_]\w*",  # addresses and tags
    rf"can(?=not{ENDS})|(?:gon|wan)(?=na{ENDS})|got(?=ta{ENDS})|(?:gim|lem)(?=me{ENDS})|'t(?=(?:is|was)(?!\w))",
    r"[a-z]*[a-mo-z](?=n't)|n't(?!\w)",  # do n't
    rf"{LETTER}+(?={CONTRACTION})|{CONTRACTION}",  # man 's
    r"'n'|'(?:n|em|till?|cause|\d0s)(?!\w)|(?<!\d)'\d\d(?!['\"%\w-]|[.,:/]\d)",  # 'em, '90s, '08
    r"(?:ol'|dunkin'|o'clock|ma'am|c'mon|hallowe'en|e'er|ev'ry|nor'easter)(?!\w)",
    rf"{LETTER}+[aeiouy]'(?-i:[aeiouA-Z]){LETTER}*",  # Shi'ite
    r"(?-i:[A-Z]+(?:&[A-Z]+)+|[A-Z]*\$)",  # AT&T, US$
    rf"{ABBREVIATION}(?:-{PART})*",  # U.S.-based
    rf"{PART}(?:-{PART})*\.(?=[,;:])",  # any word keeps a stop in front of a comma
    rf"(?:\d+-)?\d+/\d+(?:/\d+)?{ENDS}",  # 1-1/2, 9/11/2001
    r"[a-z0-9]+(?:-[a-z]+){0,2}(?:/[a-z0-9]+(?:-[a-z]+){0,2}){1,2}",  # black/white, w/o
    rf"(?:{PREFIX})?{PART}(?:[.,]+{PART}){{0,4}}(?:[-_\u2010\u2011](?:[dlo]'{LETTER})?{PART})+",  # t-shirt, 1,000-foot
    rf"[-+]?\d+(?:[.,:]\d+)+|[-+]?(?<!\.)(?:[.,:]\d+)+|[-+]?\d+{ENDS}",  # 1,000 and 5:30
    rf"{PREFIX}{PART}|[dljy]'(?=\w)",
    rf"{LETTER}(?:{PART})?(?:[.!?]{LETTER}(?:{PART})?)+",  # foo.com, and a forgotten space
    PART,
    r"[:;=]-?[()dp](?!\w)|[!?]+|-+|\*+|_+",  # :-), ?!
    r"[^\w\s\u200b-\u2011\ufe0f\ufeff\U00010000-\U0010ffff]",  # any other sign but emoji
)
TOKEN = re.compile("|".join(RULES), re.IGNORECASE)


def tokenize(text: str) -> list[str]:
    """Split a sentence into words in lower case, without punctuation: ``Don't stop!`` is ``do``, ``n't``, ``stop``.

    Brackets stay, as ``-lrb-`` and ``-rrb-``: the reference means to drop them, but looks for them in capitals.
    """
    plain = _plain_words(text)
    if plain is not None:
        return plain
    words = TOKEN.findall(text.replace("''", '"').translate(PLAIN))
    return [sys.intern(word.lower().translate(BRACKETS)) for word in words if word not in PUNCTUATION]


def _plain_words(text: str) -> list[str] | None:
    """The words of most captions, in a tenth of the time: letters alone, perhaps a full stop at the end; else None.

    Words are interned, since a million captions have the same ones.
    """
    words = text.lower().split()
    if words and words[-1][-1] == ".":
        words[-1] = words[-1][:-1]
        if not words[-1]:
            del words[-1]
        elif len(words[-1]) == 1 or words[-1] in WITH_STOP:
            return None
    if all(word.isascii() and word.isalpha() and not word.startswith(COMPOUNDS) for word in words):
        return list(map(sys.intern, words))
    return None


def build_vocabulary(sentences: Iterable[list[str]], min_count: int) -> tuple[str, ...]:
    """``SPECIAL_WORDS``, then the words that occur at least ``min_count`` times: most frequent first, ties alphabetically."""
    counts = Counter(word for sentence in sentences for word in sentence)
    kept = [word for word, count in counts.items() if count >= min_count]
    return (*SPECIAL_WORDS, *sorted(kept, key=lambda word: (-counts[word], word)))
