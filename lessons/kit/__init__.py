"""The instructor's kit, all of it made from the notebooks beside this folder.

    python -m pip install '.[kit]'
    python -m lessons.kit teach          makes the folder teach; --help says what goes into it

Read `lesson` first: what is known of one lesson, and where in its notebook that stands. Then,
as you like: `copies` (notebooks to hand out and to keep), `plan`, `rubric` and `quiz`
(Markdown), and `paper`, `notebook_pages` and `slides` (PDF).
"""
