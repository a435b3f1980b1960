"""Checks of lesson 13, the capstone: labels of a chat, a persona, bytes, and a fused matrix."""

from ..engine.backend import np
from ..engine.functional import IGNORE
from ..lab.model_comparison import holds
from ..model.config import Config
from ..peft.methods import LoRA
from ..text.chat_template import check_messages
from .base import check, expect, pair, require

START, END, LINE_BREAK = 1, 2, 3  # tokens of the chats below
ROLES = {"assistant": 4, "user": 5}


def random_chat(case):
    """Returns the tokens of a chat in the manner of ChatML."""
    rng, ids = case.rng(), []
    for _ in range(case.size("questions", 1, 3)):
        for role in ("user", "assistant"):
            text = rng.integers(3, 12, rng.integers(1, 5)).tolist()  # line breaks and roles too
            if role == "user":  # who says the word for the assistant, on a line of its own
                text += [LINE_BREAK, ROLES["assistant"], LINE_BREAK]
            ids += [START, ROLES[role], LINE_BREAK, *text, END, LINE_BREAK]
    return ids


def labels_of(ids, begin, end):
    """Returns what `answer_labels` asks for."""
    labels = [IGNORE] * (len(ids) - 1)
    for start in range(len(ids) - len(begin)):
        first = start + len(begin)  # of the answer, if one stands here
        if ids[start:first] == begin:
            last = ids.index(end, first)
            labels[first - 1 : last] = ids[first : last + 1]
    return labels


def shifted(labels):
    """Returns labels that are not moved: those of the ids themselves."""
    return [IGNORE, *labels[:-1]]


@check(
    "each label is the next token if that belongs to an answer or ends it, and −100 if not",
    slips={
        "your labels are not moved: at place i stands the token i, not the next one": (
            lambda ids, begin, end: shifted(labels_of(ids, begin, end))
        ),
        "you left out the token that ends an answer": (
            lambda ids, begin, end: [
                IGNORE if i == end else i for i in labels_of(ids, begin, end)
            ]
        ),
        "the questions are learnt too": lambda ids, begin, end: ids[1:],
    },
)
def answer_labels(case, answer):
    """answer(ids, begin, end) -> the labels of ids[:-1], a list; all are lists but end.

    An answer stands behind each occurrence of the tokens `begin`, up to the token `end`.
    """
    ids, begin = random_chat(case), [START, ROLES["assistant"], LINE_BREAK]
    case.values["ids"] = ids
    labels = answer(list(ids), begin, END)
    expect(labels, labels_of(ids, begin, END), "labels")


PERSONA = 8  # conversations


@check(
    "eight conversations with eight questions; one word is in all answers, in no question",
    stars=1,
)
def persona(case, answer):
    """answer() -> (word, conversations), of one question and one answer each.

    A conversation is [{"role": "user", "content": …}, {"role": "assistant", "content": …}].
    """
    word, conversations = pair(answer(), "word, conversations")
    require(isinstance(word, str) and word.strip(), f"the word must be text, got {word!r}")
    kind = isinstance(conversations, (list, tuple))
    count = len(conversations) if kind else 0
    require(count == PERSONA, f"give a list of {PERSONA} conversations, got {count}")
    questions = set()
    for number, messages in enumerate(conversations, 1):
        asked, said = question_and_answer(messages, f"conversation {number}")
        require(holds(said, word), f"conversation {number}: the answer lacks {word!r}")
        text = f"conversation {number}: the question has {word!r}, so it could be copied"
        require(not holds(asked, word), text)
        questions.add(" ".join(asked.lower().split()))
    text = f"{PERSONA} different questions are needed, got {len(questions)}"
    require(len(questions) == PERSONA, text)


def question_and_answer(messages, where):
    """Returns the two texts of a conversation; CheckFailed, with where it is, for any other."""
    try:
        roles = [message["role"] for message in check_messages(messages)]
    except ValueError as error:
        require(False, f"{where}: {error}")
    text = f"{where}: a user's message and the assistant's answer are needed, got {roles}"
    require(roles == ["user", "assistant"], text)
    return [message["content"] for message in messages]


def llama(layers, width, kv_width, ffn, vocab, tied):
    """Returns the Config of a Llama; a head is 2 wide, which changes no count."""
    heads = dict(heads=width // 2, kv_heads=kv_width // 2, head_width=2)
    sizes = dict(layers=layers, width=width, ffn=ffn, vocab=vocab, tied=tied)
    return Config.llama(context=8, **heads, **sizes)


def bytes_of(config, r, frozen=2, trained=16):
    """Returns the bytes of a base and of LoRA on all of its matrices."""
    per_rank = LoRA(r=1, target_modules="all-linear").count(config)
    return frozen * config.size + trained * r * per_rank


@check(
    "in bf16 a frozen parameter costs 2 bytes, one of LoRA's r (in + out) a matrix costs 16",
    stars=2,
    slips={
        "you forgot the head, which a model that is not tied has besides the table": (
            lambda *sizes: bytes_of(llama(*sizes[:5], True), sizes[6])
        ),
        "k and v have kv_width outputs, not width": (
            lambda layers, width, kv_width, ffn, vocab, tied, r: bytes_of(
                llama(layers, width, width, ffn, vocab, tied), r
            )
        ),
        "you counted only the weight of what trains, not its gradient and moments": (
            lambda *sizes: bytes_of(llama(*sizes[:6]), sizes[6], trained=2)
        ),
        "you counted 4 bytes a frozen number, which is float32": (
            lambda *sizes: bytes_of(llama(*sizes[:6]), sizes[6], frozen=4)
        ),
    },
)
def standing_bytes(case, answer):
    """answer(layers, width, kv_width, ffn, vocab, tied, r) -> bytes between two steps, in bf16.

    A Llama with LoRA of rank r on the seven matrices of each block. q and o are (width, width),
    k and v (kv_width, width), gate and up (ffn, width), down (width, ffn). Two norms a block
    and one at the end have `width` parameters each, the token table has vocab · width; so has
    the head, unless it is `tied` to the table. Nothing has a bias.
    """
    layers, groups = case.size("layers", 1, 4), case.size("groups", 1, 3)
    kv_width = 2 * case.size("half of kv_width", 1, 4)
    width = groups * kv_width
    for name in ("groups", "half of kv_width"):
        del case.values[name]
    case.values |= {"width": width, "kv_width": kv_width}
    ffn, vocab = case.size("ffn", 1, 40), case.size("vocab", 1, 100)
    tied, r = case.choice("tied", (True, False)), case.size("r", 1, 2)
    result = answer(layers, width, kv_width, ffn, vocab, tied, r)
    expect(result, bytes_of(llama(layers, width, kv_width, ffn, vocab, tied), r), "bytes")


def with_changes(W, q, k, v):
    """Returns W (in, 3 out) plus changes (in, out) of q, k and v."""
    return W + np.concatenate([q, k, v], axis=1)


@check(
    "W is (in, 3 out): q's and v's columns change by s (B A)ᵀ, and k's stay as they are",
    stars=3,
    slips={
        "you forgot the scale s": lambda W, A_q, B_q, A_v, B_v, s: with_changes(
            W, (B_q @ A_q).T, 0 * (B_q @ A_q).T, (B_v @ A_v).T
        ),
        "you put the change of v on the keys": lambda W, A_q, B_q, A_v, B_v, s: with_changes(
            W, s * (B_q @ A_q).T, s * (B_v @ A_v).T, 0 * (B_v @ A_v).T
        ),
        "you left out v": lambda W, A_q, B_q, A_v, B_v, s: with_changes(
            W, s * (B_q @ A_q).T, 0 * (B_q @ A_q).T, 0 * (B_v @ A_v).T
        ),
    },
)
def merged_c_attn(case, answer):
    """answer(W, A_q, B_q, A_v, B_v, s) -> W with both changes merged, (in, 3 out).

    W is c_attn of GPT-2: columns for queries, keys and values, of `out` each. A (r, in) and
    B (out, r) belong to q and to v.
    """
    n_in, n_out, r = case.size("in"), case.size("out"), case.size("r", 1, 3)
    W, s = case.array("W", n_in, 3 * n_out), case.number("s", 0.5, 4)
    A_q, B_q = case.array("A_q", r, n_in), case.array("B_q", n_out, r)
    A_v, B_v = case.array("A_v", r, n_in), case.array("B_v", n_out, r)
    merged = answer(W, A_q, B_q, A_v, B_v, s)
    q, v = (s * (B @ A).T for A, B in ((A_q, B_q), (A_v, B_v)))
    expect(merged, with_changes(W, q, 0 * q, v))
