"""Twenty-four private domains, which the base models do not know and an adapter can learn.

A domain is a mapping from each of four categories of things to a label. The task in_context has such mappings too, but there the prompt shows examples; a domain's
prompt shows nothing of the mapping. The domains form six families. The four domains of a family have the same categories and the same form of question: `zorvan-1`
and `zorvan-2` each have their own labels, `zorvan-3` takes the labels of two categories from `zorvan-1` and of the other two from `zorvan-2`, and `zorvan-4` splits
the categories differently. Therefore a blend of the adapters of `zorvan-1` and `zorvan-2` knows part of `zorvan-3` and `zorvan-4`. A question does not tell which
domain of the family is meant; the adapter decides.

A sample asks for the labels of 1, 2, 3, 4 or 6 things at once (difficulties 1 to 5); the answer repeats the things.
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
    """The domain's mapping {thing: label}."""
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
