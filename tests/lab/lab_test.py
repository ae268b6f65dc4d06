#!/usr/bin/env python3
"""Tests of the laboratory's generator: the same seed gives the same samples, samples fit their context, and each has exactly the answer that solve() finds in its text."""
import math
import random
import re
import unittest

import checkpoints
import daemon
import domains
import quality
import score
import tasks
from words import CATEGORIES

CELLS = [(task, d, context) for task in tasks.TASKS for context in tasks.CONTEXTS for d in range(1, 6)]


def samples(num, **options):
    for task, difficulty, context in CELLS:
        for i in range(num):
            yield task, tasks.make_sample(task, random.Random(f"test {task} {difficulty} {context} {i}"), difficulty=difficulty, context_tokens=context, **options), context


def solve(task, sample):
    """Finds all possible answers from the sample's text alone."""
    text, question = "\n".join(m["content"] for m in sample.messages), sample.messages[-1]["content"].split("\n")[-1]
    if task == "recall":
        owner, thing = re.fullmatch(r"What is (\w+)'s (\w+) like\?", question).groups()
        return set(re.findall(rf"{owner}'s {thing} is \w+\.", text))
    if task == "two_hop":
        goods = re.fullmatch(r"Where does the owner of the (\w+ \w+) live\?", question).group(1)
        return {f"{a} {b}" for a, owner in re.findall(rf"(The {goods} belongs to (\w+)\.)", text) for b in re.findall(rf"{owner} lives in \w+\.", text)}
    if task == "multi_document":
        role, place = re.fullmatch(r"Who is the (\w+) of (\w+)\?", question).groups()
        return set(re.findall(rf"The {role} of {place} is \w+\.", text))
    if task == "in_context":
        kind = {word: c for c, words in CATEGORIES.items() for word in words}
        asked = kind[question.removesuffix(" >")]
        return {label for word, label in re.findall(r"(\w+) > (\w+)", text) if kind[word] == asked}
    if task == "transform":
        what, words = question.split(": ")
        if what == "Add":
            a, b = words.split(" + ")
            return {str(int(a) + int(b))}
        letters = words.split()
        return {" ".join({"Copy": letters, "Reverse": letters[::-1], "Sort": sorted(letters)}[what])}
    thing = re.fullmatch(r"What is my (\w+) like\?", question).group(1)
    last = re.findall(rf"My {thing} is (?:now )?(\w+)", text)[-1]
    return {f"Your {thing} is {last}."}


class LabTest(unittest.TestCase):
    def test_same_seed_same_sample(self):
        for (task, a, _), (_, b, _) in zip(samples(1), samples(1)):
            self.assertEqual(a, b, task)

    def test_answers_are_the_only_ones(self):
        for task, sample, _ in samples(3, examples=5):
            self.assertEqual(solve(task, sample), {sample.answer}, (task, sample))

    def test_samples_fit_their_context(self):
        for questions in (1, 3):
            for task, sample, context in samples(2, questions=questions):
                size = sum(tasks.count_tokens(m["content"]) + 5 for m in sample.messages) + tasks.count_tokens(sample.answer) + 4
                self.assertLessEqual(size, context, (task, size))
                self.assertEqual(sample.messages[-1]["role"], "user")

    def test_domains_of_a_family(self):
        for family in domains.FAMILIES:
            one, two, three, four = (domains.words_of(f"{family}-{i}") for i in (1, 2, 3, 4))
            self.assertEqual(len(one), 64)
            self.assertTrue(all(one[t] != two[t] for t in one))
            for between in (three, four):
                self.assertEqual(sum(between[t] == one[t] for t in one), 32)
                self.assertEqual(sum(between[t] == two[t] for t in one), 32)
            self.assertNotEqual(three, four)
        sample = domains.make_sample("zorvan-3", random.Random(1), difficulty=4)
        things = re.fullmatch(r"Zorvan for (.*)\?", sample.messages[-1]["content"]).group(1).split(", ")
        self.assertEqual(sample.answer, ", ".join(f"{t} > {domains.words_of('zorvan-3')[t]}" for t in things))

    def test_interval(self):
        low, high = score.wilson(90, 100)
        self.assertAlmostEqual(low, 0.826, 3)
        self.assertAlmostEqual(high, 0.945, 3)

    def test_change_of_perplexity(self):
        base = [[(-1.0, 7), (-3.0, 8)], [(-2.0, 9)] * 6]
        self.assertAlmostEqual(quality.perplexity(base), math.exp(2))
        shifted = [[(p - 0.1, best) for p, best in text] for text in base]
        relative, half = quality.change(shifted, base)
        self.assertAlmostEqual(relative, math.exp(0.1) - 1)
        self.assertAlmostEqual(half, 0)
        better = [base[0], [(-1.9, 9)] * 6]
        relative, half = quality.change(better, base)
        self.assertAlmostEqual(1 + relative, quality.perplexity(better) / quality.perplexity(base))
        self.assertGreater(half, 0)
        self.assertAlmostEqual(quality.agreement([[(0, 7), (0, 1)], base[1]], base), 7 / 8)

    def test_rows_of_checkpoints(self):
        self.assertEqual({tool for tool, _ in checkpoints.RECIPES.values()}, set(checkpoints.MAKERS))
        rounding = {name for name, (_, recipe) in checkpoints.RECIPES.items() if checkpoints.rounds_activations(recipe)}
        self.assertEqual(rounding, {"ct-w8a8", "ct-mixed", "ct-some-layers"})
        figures = dict(weights="int4", activations="bfloat16", kl=1e-4, kl_half_width=1e-5, kl_p99=1e-3, change_percent=0.1,
                       same_best_percent=99.5)
        row = dict(name="ct-w4a16", bytes=113_200_000, auto=figures, bfloat16=figures, int8=dict(figures, kl=0.04))
        expected = "| ct-w4a16 | 113.2 | int4, bfloat16 | 0.000100 ± 0.000010 | 0.00100 | +0.100 | 99.50 | 0.000100 | 0.040000 |"
        self.assertEqual(checkpoints.line_of(row), expected)
        self.assertEqual(checkpoints.line_of(dict(name="gptq", error="not made")), "| gptq | not made |")

    def test_a_daemon_that_does_not_start(self):
        with self.assertRaisesRegex(daemon.Refused, "--help"):
            with daemon.Daemon("/bin/ls", []):
                pass


if __name__ == "__main__":
    unittest.main()
