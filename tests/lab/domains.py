"""Twenty-four private domains: what the base models do not know and an adapter can learn.

A domain is a rule: a label for each of four categories of things, as in the task in_context, but nothing in the prompt shows it. The domains come in six
families; the four domains of a family share its categories and the form of its questions: `zorvan-1` and `zorvan-2` have labels of their own, `zorvan-3` takes
those of two categories from the one and of the others from the other, `zorvan-4` splits them another way. So a blend of the adapters of `zorvan-1` and `zorvan-2`
knows something of `zorvan-3` and `zorvan-4`. The question does not say which of the four is meant: only the adapter tells.

A sample asks for the label of one thing (difficulty 1), two, three, four or six (5) at once; the answer repeats the things.
"""
import random

from tasks import Sample, user
from words import CATEGORIES, LABELS

FAMILIES = ["zorvan", "keltish", "umbric", "olmec", "tarsian", "veldic"]
DOMAINS = [f"{family}-{i}" for family in FAMILIES for i in (1, 2, 3, 4)]


def categories_of(family):
    rng = random.Random(f"categories {family}")
    return rng.sample(sorted(CATEGORIES), 4)


def _own_labels(family, which):
    labels = random.Random(f"labels {family}").sample(LABELS, 8)
    return dict(zip(categories_of(family), labels[4 * (which - 1):]))


def words_of(domain):
    """{thing: label}."""
    family, number = domain.rsplit("-", 1)
    first, second = _own_labels(family, 1), _own_labels(family, 2)
    categories = categories_of(family)
    of_first = {"1": categories, "2": [], "3": categories[:2], "4": categories[::2]}[number]
    return {thing: (first if category in of_first else second)[category] for category in categories for thing in CATEGORIES[category]}


def make_sample(domain, rng, *, difficulty=1):
    words = words_of(domain)
    things = rng.sample(list(words), [1, 2, 3, 4, 6][difficulty - 1])
    family = domain.rsplit("-", 1)[0].capitalize()
    return Sample([user(f"{family} for {', '.join(things)}?")], ", ".join(f"{thing} > {words[thing]}" for thing in things))
