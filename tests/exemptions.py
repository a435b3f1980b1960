"""Which methods are exempt from which law, and why; a test fails if one is not needed."""

NO_NEUTRAL = "virtual tokens take attention from the real ones whatever they hold"
ROUNDING = "W is split into two parts, which add up to W but for rounding"
DETACHED = "the norm of each row is held constant in the gradient, as the paper says"
PRUNED = "beside AdamW's update, orthogonality adds to the gradient, and weak triplets become 0"
SHARED = "its weights replace the base's, which all rows of a batch share"

EXEMPT = {
    (1, "prefix"): NO_NEUTRAL,
    (1, "prompt"): NO_NEUTRAL,
    (1, "p-tuning"): NO_NEUTRAL,
    (1, "pissa"): ROUNDING,
    (4, "dora"): DETACHED,
    (15, "full"): SHARED,
    (15, "bitfit"): SHARED,
    (15, "norms"): SHARED,
    (15, "last-k"): SHARED,
    (15, "head"): SHARED,
    (16, "adalora"): PRUNED,
}
