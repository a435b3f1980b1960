"""Solutions of lesson 0: what LoRA costs, what is stored, and which words count.

python lessons/solutions/lesson_00.py        runs the lesson's checks on them
"""

from minipeft.course import tour


def lora_count(r, shapes):
    """r (in + out) parameters on each matrix, of shape (out, in)."""
    return sum(r * n_in + n_out * r for n_out, n_in in shapes)


def largest_rank(budget, shapes):
    """★ Each unit of rank costs the same; the smallest matrix sets the other limit."""
    affordable = budget // lora_count(1, shapes)
    return min(affordable, *(min(shape) for shape in shapes))


def times_smaller(base, adapter, tasks):
    """★★ For many tasks it approaches base / adapter."""
    return tasks * base / (base + tasks * adapter)


def exact_match(best, labels):
    """★★★ A position is fine if it is right or has no label; a word, if all of its are."""
    fine = (best == labels) | (labels == -100)
    return fine.all(axis=1).mean()


if __name__ == "__main__":
    tour.lora_count(lora_count)
    tour.largest_rank(largest_rank)
    tour.storage(times_smaller)
    tour.exact_match(exact_match)
