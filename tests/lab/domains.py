"""Twenty-four private domains: what the base models do not know and an adapter can learn.

A domain is a private word for each of 48 things. The domains come in six families; the four domains of a family share its things and the form of its
questions: `zorvan-1` and `zorvan-2` have words of their own, `zorvan-3` takes half of the categories from the one and half from the other, `zorvan-4`
splits them another way. So a blend of the adapters of `zorvan-1` and `zorvan-2` knows something of `zorvan-3` and `zorvan-4`. The question does not say which
of the four is meant: only the adapter tells.

A sample asks for one word (difficulty 1, 2), two (3), three (4) or four (5) at once.
"""
import random

from tasks import Sample, user
from words import CATEGORIES

FAMILIES = ["zorvan", "keltish", "umbric", "olmec", "tarsian", "veldic"]
DOMAINS = [f"{family}-{i}" for family in FAMILIES for i in (1, 2, 3, 4)]
_ONSETS, _VOWELS, _ENDS = "b d f g h k l m n p r s t v z".split(), "a e i o u".split(), "l m n r s x".split()


def categories_of(family):
    rng = random.Random(f"categories {family}")
    return rng.sample(sorted(CATEGORIES), 4)


def _invent(rng, taken):
    while True:
        word = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_ENDS)
        if word not in taken:
            taken.add(word)
            return word


def _own_words(family, which):
    rng, taken = random.Random(f"words {family} {which}"), set()
    return {thing: _invent(rng, taken) for category in categories_of(family) for thing in CATEGORIES[category][:12]}


def words_of(domain):
    """{thing: private word}."""
    family, number = domain.rsplit("-", 1)
    first, second = _own_words(family, 1), _own_words(family, 2)
    if number in "12":
        return first if number == "1" else second
    categories = categories_of(family)
    from_first = categories[:2] if number == "3" else categories[::2]
    return {thing: (first if category in from_first else second)[thing] for category in categories for thing in CATEGORIES[category][:12]}


def make_sample(domain, rng, *, difficulty=1):
    words = words_of(domain)
    things = rng.sample(list(words), [1, 1, 2, 3, 4][difficulty - 1])
    family = domain.rsplit("-", 1)[0].capitalize()
    return Sample([user(f"{family} for {', '.join(things)}?")], " ".join(words[thing] for thing in things))
