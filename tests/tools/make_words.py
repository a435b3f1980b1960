"""Make minipeft/words/words.csv: common English words and their forms, from lemminflect.

    pip install lemminflect==0.2.3 wordfreq==3.1.1
    python tests/tools/make_words.py

Kept: lower-case a–z lemmas of 3 to 10 letters whose forms are a–z as well (3 to 13 letters),
and which are common: a Zipf frequency of at least 2.75 in wordfreq's English list (about once
in two million words). Verbs need past, third person and gerund; nouns a plural that differs;
adjectives a comparative in one word. Words that a class need not read are left out. wordfreq
only decides which lemmas stay; none of its numbers are written.
"""

import csv
import gzip
import importlib.resources
import re
from pathlib import Path

from wordfreq import zipf_frequency

HERE = Path(__file__).resolve().parents[2] / "minipeft" / "words" / "words.csv"
WORD = re.compile("[a-z]{3,13}")
MIN_ZIPF = 2.75
FORMS = ("third", "past", "gerund", "plural", "comparative")
COARSE = re.compile(
    "fuck|shit|cunt|bitch|whore|slut|nigg|fag|wank|rapis|porn|tit$|tits|twat|queer|dyke|retard"
    "|spic$|kike|crap|turd|bastard|boob|cock$|dick|piss|arse$|arsehole|asshole|ass$|rape$|dildo"
    "|gook|chink|jap$|homo$"
)


def rows():
    """[lemma, *FORMS] of each word, sorted; empty where a word has no such form."""
    table = importlib.resources.files("lemminflect") / "resources" / "infl_lu.csv.gz"
    forms = {}
    with gzip.open(table, "rt", encoding="utf-8") as file:
        for lemma, pos, *inflections in csv.reader(file):
            if not WORD.fullmatch(lemma) or len(lemma) > 10 or COARSE.match(lemma):
                continue
            if zipf_frequency(lemma, "en") < MIN_ZIPF:
                continue
            inflections = [form.split("/")[0] for form in inflections]
            if pos == "verb":
                past, _, gerund, third = (inflections + [""] * 4)[:4]
                found = {"third": third, "past": past, "gerund": gerund}
            elif pos == "noun":
                found = {"plural": inflections[0]}
            elif pos == "adj" and inflections:
                found = {"comparative": inflections[0]}
            else:
                continue
            same = {kind for kind, form in found.items() if form == lemma}
            if same <= {"past"} and all(map(WORD.fullmatch, found.values())):
                forms.setdefault(lemma, {}).update(found)
    for lemma, found in sorted(forms.items()):
        yield [lemma, *(found.get(kind, "") for kind in FORMS)]


if __name__ == "__main__":
    table = list(rows())
    with HERE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["lemma", *FORMS])
        writer.writerows(table)
    counts = [sum(bool(row[i]) for row in table) for i in range(6)]
    print(f"wrote {HERE}: {HERE.stat().st_size:,} bytes, lemmas and forms {counts}")
