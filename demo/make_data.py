#!/usr/bin/env python3
"""Writes the demo's texts: a corpus for pre-training and preference pairs for DPO.

What      corpus.jsonl            {"text"}: little reviews, each with a judge's verdict, and plain sentences
          preferences.jsonl       {"prompt", "chosen", "rejected"}: 400 pairs for training
          preferences-test.jsonl  the same, 64 pairs about reviews that occur nowhere else
How       every text is filled in from the templates and word lists below, which were written for this
          project; chosen names the review's true label, rejected the other one.
Why so    the corpus's judge is hasty at times: then he names the wrong label (one review in six) and tends to other
          words. So the pre-trained model is unsure of the label *and* of the words around it. Both are needed: a
          model that is certain of the shared words has no gradient there, and nothing could be entangled.
Pairs     `sentence`: two thirds, " It has a positive sentiment based on my judgement." The two completions share
          all tokens but one. `word`: one third, " positive". The two completions share nothing but EOS.
Run       python3 demo/make_data.py            (standard library only; same bytes on every machine)
"""

import json
import random
from pathlib import Path

SEED = 20240607
REVIEWS = 2300
JOTTINGS = 1500  # lists of words with a verdict: without them the words' two sides are learnt late
PLAIN_SENTENCES = 200
TRAIN_PAIRS = 400
TEST_PAIRS = 64
HASTY = 0.1  # how often the corpus's judge is hasty, and his verdict wrong ...
HASTY_BEFORE_A_TURN = 0.5  # ... and how often when the review concedes the other side first
WORD_STYLE = 1 / 3  # share of verdicts (and of pairs) that are one word

LABELS = ("positive", "negative")

# topic -> (nouns, adjectives for a positive review, adjectives for a negative one)
TOPICS = {
    "meal": (
        "the soup,the bread,the stew,the apple pie,the coffee,my lunch,the salad,the cake",
        "fresh,tasty,warm,crisp,delicious",
        "stale,burnt,bland,salty,soggy",
    ),
    "outing": (
        "the walk,the picnic,the boat trip,the garden party,the hike,the bike ride",
        "sunny,refreshing,relaxing,lively",
        "muddy,rainy,tiring,chilly",
    ),
    "transport": (
        "the bus,the train,the ferry,the taxi,the tram",
        "punctual,quick,comfortable,smooth",
        "late,crowded,slow,noisy",
    ),
    "thing": (
        "the phone,the lamp,the kettle,the jacket,the chair,the bag,the clock",
        "sturdy,handy,well made,useful",
        "shaky,flimsy,badly made,scratched",
    ),
    "show": (
        "the film,the concert,the book,the play,the lecture,the song",
        "gripping,moving,clever,funny",
        "dull,tedious,confusing,forgettable",
    ),
    "person": (
        "the waiter,the clerk,our neighbour,the nurse,the guide,the driver,the teacher",
        "kind,patient,helpful,cheerful",
        "rude,impatient,careless,grumpy",
    ),
    "place": (
        "the hotel,the museum,the park,the library,the cafe,the new shop,our room",
        "tidy,bright,charming,welcoming",
        "dusty,damp,gloomy,messy",
    ),
}
TOPICS = {
    topic: (nouns.split(","), {"positive": good.split(","), "negative": bad.split(",")})
    for topic, (nouns, good, bad) in TOPICS.items()
}

OPENERS = "Today,This morning,Last night,On Friday,After work,At noon,Yesterday,Over the weekend".split(",")
WHERE = "in town,by the river,near the station,at the market,up the hill".split(",")
DEGREES = ["", "", "", "really ", "quite ", "rather ", "very "]
WITNESSES = "my sister,my uncle,my cousin,a friend,the paper,my boss".split(",")
CLOSERS = {
    "positive": [
        "I would do it again.",
        "What a treat.",
        "I am still smiling.",
        "We left happy.",
        "It made my week.",
        "Highly recommended.",
    ],
    "negative": [
        "Never again.",
        "What a waste.",
        "I am still annoyed.",
        "We left early.",
        "It spoiled my week.",
        "I want my money back.",
    ],
}
JOTTED = ["In short:", "Noted:", "So far:", "All in all:"]
NEUTRAL_CLOSERS = ["It took an hour.", "My brother came along.", "I wrote it down.", "It was a Tuesday.", "Then I went home."]

# the judge's words before and after the label, with their weights when he is (careful, hasty)
BEFORE = [((3, 3), "It has a"), ((1, 1), "It gives a"), ((1, 1), "I see a")]
NOUN = [((2, 1), "sentiment"), ((1, 1), "tone"), ((1, 1), "mood")]
AFTER = [((4, 1), "based on my judgement"), ((2, 2), "in my view"), ((1, 4), "at first sight")]
PREFERRED = " It has a {} sentiment based on my judgement."

ACTORS = "The baker,The gardener,My aunt,The postman,A tall boy,The old painter,Our cat,The student".split(",")
ACTIONS = (
    "opens the window,walks to the river,reads a book,waits for the train,carries a bag,"
    "sits under a tree,looks at the clock,buys bread at the market,sings a song,paints a door"
).split(",")
TIMES = "at eight,in the morning,after lunch,on Sunday,every day,before dinner,in the rain,with a friend".split(",")


class Source:
    """Random draws built on `random()` alone, whose sequence Python promises to keep between versions."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def chance(self, probability):
        return self.random() < probability

    def pick(self, items):
        return items[int(self.random() * len(items))]

    def pick_weighted(self, weighted, column):
        at = self.random() * sum(weights[column] for weights, _ in weighted)
        for weights, item in weighted:
            at -= weights[column]
            if at < 0:
                return item
        return weighted[-1][1]

    def shuffled(self, items):
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = int(self.random() * (i + 1))
            items[i], items[j] = items[j], items[i]
        return items


def other(label):
    return LABELS[1 - LABELS.index(label)]


def capital(text):
    return text[0].upper() + text[1:]


def one_sided(source, label):
    """A review in which everything points the same way."""
    nouns, adjectives = TOPICS[source.pick(list(TOPICS))]
    noun, (adjective, second) = source.pick(nouns), source.shuffled(adjectives[label])[:2]
    adjective = f"{adjective} and {second}" if source.chance(0.5) else source.pick(DEGREES) + adjective
    opening = source.pick(OPENERS)
    return source.pick(
        [
            f"{opening} {noun} was {adjective}.",
            f"{capital(noun)} {source.pick(WHERE)} was {adjective}.",
            f"{opening} I found {noun} {adjective}.",
        ]
    )


def mixed(source, label):
    """A review with a word for either side; the turn of the sentence says which one counts."""
    first, second = source.shuffled(TOPICS)[:2]
    nouns, adjectives = TOPICS[first]
    noun = source.pick(nouns)
    counts = source.pick(DEGREES) + source.pick(adjectives[label])
    concedes = source.pick(adjectives[other(label)])
    nouns, adjectives = TOPICS[second]
    aside = f"{source.pick(nouns)} was {source.pick(adjectives[other(label)])}"
    witness = source.pick(WITNESSES)
    return source.pick(
        [
            f"{capital(aside)}, but {noun} was {counts}.",
            f"Although {aside}, {noun} was {counts}.",
            f"{capital(noun)} was {counts}, even though {aside}.",
            f"I expected {concedes}, yet {noun} was {counts}.",
            f"{capital(witness)} called {noun} {concedes}. I say {counts}.",
        ]
    )


def jotting(source):
    """(text, label): two to six words that all point the same way."""
    label = source.pick(LABELS)
    words = [word for _, adjectives in TOPICS.values() for word in adjectives[label]]
    count = 2 + int(source.random() * 5)
    return f"{source.pick(JOTTED)} {', '.join(source.shuffled(words)[:count])}.", label


def review(source):
    """(text, true label)."""
    label = source.pick(LABELS)
    text = mixed(source, label) if source.chance(0.5) else one_sided(source, label)
    if source.chance(0.25):
        text += " " + source.pick(CLOSERS[label])
    elif source.chance(0.3):
        text += " " + source.pick(NEUTRAL_CLOSERS)
    return text, label


def new_review(source, seen):
    """A review that is not in `seen`, which then holds it."""
    while True:
        text, label = review(source)
        if text not in seen:
            seen.add(text)
            return text, label


def with_verdict(source, text, label, hasty):
    verdict = other(label) if hasty else label
    if source.chance(WORD_STYLE):
        return {"text": f"{text}\nLabel: {verdict}"}
    before, noun, after = (source.pick_weighted(words, int(hasty)) for words in (BEFORE, NOUN, AFTER))
    return {"text": f"{text}\nJudgement: {before} {verdict} {noun} {after}."}


def review_row(source, seen):
    text, label = new_review(source, seen)
    turns = text.startswith("Although ") or ", but " in text
    return with_verdict(source, text, label, source.chance(HASTY_BEFORE_A_TURN if turns else HASTY))


def jotting_row(source):
    text, label = jotting(source)
    return with_verdict(source, text, label, False)


def plain_row(source):
    return {"text": f"{source.pick(ACTORS)} {source.pick(ACTIONS)} {source.pick(TIMES)}."}


def pair_row(source, seen, index):
    text, label = new_review(source, seen)
    if index % 3 == 2:  # one in three, evenly spread
        prompt, verdict = f"{text}\nLabel:", " {}"
    else:
        prompt, verdict = f"{text}\nJudgement:", PREFERRED
    return {"prompt": prompt, "chosen": verdict.format(label), "rejected": verdict.format(other(label))}


def write(path, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")
    print(f"{path.name}: {len(rows)} rows, {len(text.encode()):,} bytes")


def main():
    here = Path(__file__).resolve().parent
    source, seen = Source(SEED), set()
    rows = [review_row(source, seen) for _ in range(REVIEWS)]
    rows += [jotting_row(source) for _ in range(JOTTINGS)]
    rows += [plain_row(source) for _ in range(PLAIN_SENTENCES)]
    write(here / "corpus.jsonl", source.shuffled(rows))
    write(here / "preferences.jsonl", [pair_row(source, seen, i) for i in range(TRAIN_PAIRS)])
    write(here / "preferences-test.jsonl", [pair_row(source, seen, i) for i in range(TEST_PAIRS)])


if __name__ == "__main__":
    main()
