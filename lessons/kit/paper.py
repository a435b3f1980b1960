"""Markdown as printable pages: headings, lists, tables, code and formulas, in PDF.

ReportLab makes the pages, with the fonts that come with Matplotlib: they have the Greek
letters, the mathematical signs and the ✓ ○ ★ of the lessons. So pip brings all that is needed,
on every system. Sizes are in points, 72 to the inch.
"""

import html
import re
from pathlib import Path

import matplotlib
import mistune
from pygments import lex
from pygments.lexers import get_lexer_by_name
from pygments.token import Token
from pygments.util import ClassNotFound
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    HRFlowable,
    Image,
    KeepTogether,
    ListFlowable,
    PageBreak,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
    Table,
    XPreformatted,
)

from .formula import formula

MARGIN, FRAME = 51, 6  # of the page, and the padding that ReportLab adds inside it
WIDE = A4[0] - 2 * (MARGIN + FRAME)
INK, GREY, PALE = (
    colors.HexColor("#1a1a1a"),
    colors.HexColor("#595959"),
    colors.HexColor("#f2f2f2"),
)
SANS, MONO = "DejaVuSans", "DejaVuSansMono"
CODE_SIZE = 7.9
COLUMNS = 99  # of code that fit a line
CODE_COLOURS = {  # darker than most themes: they are printed
    Token.Comment: "#5a5a5a",
    Token.Keyword: "#00478f",
    Token.String: "#8a3324",
    Token.Number: "#8a3324",
    Token.Name.Function: "#5b2c83",
    Token.Name.Class: "#5b2c83",
    Token.Operator.Word: "#00478f",
}


def register_fonts():
    """Make Matplotlib's DejaVu fonts known to ReportLab, upright, bold, oblique and both."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for family in (SANS, MONO):
        for face in ("", "-Bold", "-Oblique", "-BoldOblique"):
            pdfmetrics.registerFont(TTFont(family + face, str(folder / f"{family}{face}.ttf")))
        faces = [family + face for face in ("", "-Bold", "-Oblique", "-BoldOblique")]
        pdfmetrics.registerFontFamily(family, *faces)


register_fonts()


def style(name, **values):
    """A ParagraphStyle in the ink and font of the kit."""
    usual = dict(fontName=SANS, fontSize=9.3, leading=13.6, textColor=INK, autoLeading="max")
    return ParagraphStyle(name, **usual | values)


TEXT = style("text", spaceAfter=6)
CELL = style("cell", fontSize=8.3, leading=11.2)
CODE = style(
    "code", fontName=MONO, fontSize=CODE_SIZE, leading=10.6, autoLeading="off", backColor=PALE,
    borderPadding=(5, 4, 5, 5), spaceBefore=7, spaceAfter=11, leftIndent=5,
)  # fmt: skip
OUTPUT = style(
    "output", fontName=MONO, fontSize=CODE_SIZE, leading=10.6, autoLeading="off", leftIndent=10,
    textColor=GREY, spaceAfter=8,
)  # fmt: skip
HEADINGS = {
    1: style("h1", fontName=f"{SANS}-Bold", fontSize=19, leading=24, spaceAfter=10),
    2: style(
        "h2", fontName=f"{SANS}-Bold", fontSize=13, leading=17, spaceBefore=13, spaceAfter=5
    ),
    3: style(
        "h3", fontName=f"{SANS}-Bold", fontSize=10.5, leading=14, spaceBefore=9, spaceAfter=4
    ),
}


class Numbered(Canvas):
    """A canvas that writes 'page n of m', and the title, at the foot of every page."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.pages = []

    def showPage(self):
        """Keep the page until their number is known."""
        self.pages.append(dict(self.__dict__))
        self._startPage()

    def save(self):
        """Write the feet, and then the file."""
        for number, page in enumerate(self.pages, 1):
            self.__dict__.update(page)
            self.setFont(SANS, 7.5)
            self.setFillColor(GREY)
            self.drawString(MARGIN + FRAME, 28, self._doc.info.title)
            self.drawRightString(A4[0] - MARGIN - FRAME, 28, f"{number} / {len(self.pages)}")
            super().showPage()
        super().save()


def write_pdf(path, title, story):
    """Write flowables, a list, as a PDF of A4 pages with numbers."""
    document = SimpleDocTemplate(
        str(path), pagesize=A4, title=title, author="The minipeft authors", lang="en",
        leftMargin=MARGIN, rightMargin=MARGIN, topMargin=46, bottomMargin=50,
    )  # fmt: skip
    document.build(story, canvasmaker=Numbered)


def flowables(markdown, size=TEXT):
    """The flowables of some Markdown: GitHub's tables and $formulas$ among it."""
    parse = mistune.create_markdown(renderer=None, plugins=["table", "math", "strikethrough"])
    alone = re.sub(r"\$\$(.+?)\$\$", lambda m: displayed(m[1]), markdown, flags=re.S)
    story = []
    for token in parse(alone):
        story += block(token, size)
    return story


def displayed(latex):
    """A formula that stands alone, as the parser wants it."""
    return f"\n\n$$\n{' '.join(latex.split())}\n$$\n\n"


def block(token, size):
    """The flowables of one block of Markdown, a list."""
    kind = token["type"]
    if kind == "heading":
        look = HEADINGS[min(token["attrs"]["level"], 3)]
        return [Paragraph(inline(token["children"], look), look)]
    if kind in ("paragraph", "block_text"):
        return [Paragraph(inline(token["children"], size), size)]
    if kind == "block_code":
        return code(token["raw"], (token.get("attrs") or {}).get("info") or "text")
    if kind == "block_math":
        return [centred(token["raw"])]
    if kind == "list":
        return [listed(token, size)]
    if kind == "table":
        return [table(token), Spacer(0, 8)]
    if kind == "thematic_break":
        return [HRFlowable(width="100%", color=GREY, spaceBefore=16, spaceAfter=4)]
    if kind == "block_html":
        summary = re.search(r"<summary>(.*?)</summary>", token["raw"])
        return [Paragraph(f"<b>{summary[1]}.</b>", size)] if summary else []
    if kind == "block_quote":
        return [part for child in token["children"] for part in block(child, size)]
    if kind == "blank_line":
        return []
    raise ValueError(f"Markdown of the type {kind!r} is not known here: {token}")


def inline(tokens, look):
    """Markup for a Paragraph from the inline tokens of Markdown."""
    parts = []
    for token in tokens:
        kind, inner = token["type"], token.get("children", ())
        if kind == "text":
            parts.append(html.escape(token["raw"], quote=False))
        elif kind in ("softbreak", "linebreak"):
            parts.append(" " if kind == "softbreak" else "<br/>")
        elif kind in ("strong", "emphasis"):
            tag = "b" if kind == "strong" else "i"
            parts.append(f"<{tag}>{inline(inner, look)}</{tag}>")
        elif kind == "codespan":
            parts.append(codespan(token["raw"], look))
        elif kind == "inline_math":
            parts.append(in_line(token["raw"], look))
        elif kind == "link" and "://" in token["attrs"]["url"]:
            url = html.escape(token["attrs"]["url"])
            parts.append(f'<a href="{url}" color="#00478f">{inline(inner, look)}</a>')
        elif kind in ("link", "image", "strikethrough"):
            parts.append(inline(inner, look))
        elif kind == "inline_html":
            parts.append("<br/>" if token["raw"].startswith("<br") else "")
        else:
            raise ValueError(f"Markdown of the type {kind!r} is not known here: {token}")
    return "".join(parts)


def codespan(raw, look):
    """A piece of code in a line; raw is escaped already or is not, both are right."""
    text = html.escape(html.unescape(raw), quote=False)
    return f'<font name="{MONO}" size="{look.fontSize * 0.93:.1f}">{text}</font>'


def in_line(latex, look):
    """A formula within a line, set on its base line."""
    found = formula(latex, look.fontSize * 1.03, look.textColor.hexval().replace("0x", "#"))
    return (
        f'<img src="{found.path}" width="{found.width:.2f}" height="{found.height:.2f}" '
        f'valign="{-found.depth:.2f}"/>'
    )


def centred(latex, size=10.5, wide=WIDE):
    """A formula on a line of its own."""
    found = formula(latex.replace(r"\frac", r"\dfrac"), size)
    shrink = min(1.0, wide / found.width)
    image = Image(found.path, found.width * shrink, found.height * shrink, hAlign="CENTER")
    image.spaceBefore, image.spaceAfter = 4, 8
    return image


def listed(token, size):
    """A list, with bullets or numbers."""
    tight = size.clone("item", spaceAfter=2)
    items = []
    for item in token["children"]:
        items.append([part for child in item["children"] for part in block(child, tight)])
    ordered = token["attrs"]["ordered"]
    return ListFlowable(
        items, bulletType="1" if ordered else "bullet", leftIndent=16, bulletFontName=SANS,
        bulletFontSize=size.fontSize * (1.0 if ordered else 0.8), spaceAfter=7,
        bulletFormat="%s." if ordered else None, start=None if ordered else "•",
    )  # fmt: skip


def table(token):
    """A table as wide as its text needs, at most as wide as the page."""
    head, *more = token["children"]
    rows = [head["children"]]
    rows += [row["children"] for part in more for row in part["children"]]
    bold = CELL.clone("head", fontName=f"{SANS}-Bold")
    cells, needs = [], [20.0] * len(rows[0])
    for i, row in enumerate(rows):
        look = bold if i == 0 else CELL
        cells.append([])
        for j, cell in enumerate(row):
            right = (cell.get("attrs") or {}).get("align") == "right"
            aligned = look.clone("aligned", alignment=2 if right else 0)
            cells[-1].append(Paragraph(inline(cell["children"], look), aligned))
            needs[j] = max(needs[j], cells[-1][-1].minWidth() + 14)
    return ruled(cells, widths(cells, needs))


def widths(cells, needs):
    """Widths of columns: what the longest word needs, and of the rest by the amount of text."""
    wants = [
        max(
            pdfmetrics.stringWidth(row[j].getPlainText(), SANS, CELL.fontSize) + 16
            for row in cells
        )
        for j in range(len(needs))
    ]
    wants = [max(want, need) for want, need in zip(wants, needs, strict=True)]
    if sum(wants) <= WIDE:
        return wants
    needs = [min(need, WIDE / len(needs)) for need in needs]
    room = WIDE - sum(needs)
    more = [max(want - need, 0) ** 0.7 for want, need in zip(wants, needs, strict=True)]
    return [need + room * m / max(sum(more), 1) for need, m in zip(needs, more, strict=True)]


def ruled(cells, columns):
    """A table with a rule below its head, and thin ones between rows."""
    made = Table(cells, colWidths=columns, repeatRows=1, hAlign="LEFT")
    made.setStyle([
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEBELOW", (0, 0), (-1, 0), 1.0, INK),
        ("LINEBELOW", (0, 1), (-1, -1), 0.3, colors.HexColor("#bbbbbb")),
        ("LEFTPADDING", (0, 0), (-1, -1), 5),
        ("RIGHTPADDING", (0, 0), (-1, -1), 5),
        ("TOPPADDING", (0, 0), (-1, -1), 3),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 4),
    ])  # fmt: skip
    return made


def code(text, language="python", look=CODE):
    """Code in colours, a list of one flowable; lines too long for the page are broken."""
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        lexer = get_lexer_by_name("text", stripnl=False, ensurenl=False)
    parts = []
    for kind, piece in lex(broken(text.rstrip("\n")), lexer):
        colour = next(
            (CODE_COLOURS[k] for k in reversed(kind.split()) if k in CODE_COLOURS), ""
        )
        for i, line in enumerate(piece.split("\n")):
            line = html.escape(line, quote=False)
            line = f'<font color="{colour}">{line}</font>' if colour and line.strip() else line
            parts.append(("\n" if i else "") + line)
    return [XPreformatted("".join(parts), look)]


def plain(text, look=OUTPUT):
    """Printed output, a list of one flowable."""
    return [XPreformatted(html.escape(broken(text.rstrip("\n")), quote=False), look)]


def broken(text, columns=COLUMNS):
    """Text whose lines have no more columns; a broken line goes on after ↪."""
    lines = []
    for line in text.expandtabs(4).split("\n"):
        while len(line) > columns:
            lines.append(line[:columns])
            line = "↪ " + line[columns:]
        lines.append(line)
    return "\n".join(lines)


def pages_of(markdown, path, together=None):
    """Write Markdown as a PDF; a line of three dashes begins a new page.

    together: where the pattern matches, something begins that is kept on one page. The title is
    the first heading.
    """
    story = []
    for i, page in enumerate(re.split(r"^---$", markdown, flags=re.M)):
        story += [PageBreak()] if i else []
        if together is None:
            story += kept(flowables(page))
            continue
        head, *parts = re.split(together, page, flags=re.M)
        for part in parts:  # the heading above a part belongs to it, not to the one before
            above, _, heading = head.rpartition("\n## ")
            story += kept(flowables(above if heading else head))
            top = flowables(f"## {heading.strip()}") if heading else []
            text, found, below = part.partition("\n## ")
            story.append(KeepTogether([*top, *flowables(text), Spacer(0, 12)]))
            head = "\n## " + below if found else ""
        story += kept(flowables(head))
    write_pdf(path, markdown.splitlines()[0].lstrip("# "), story)


def kept(story):
    """The story with each heading on the page of what follows it."""
    made, i = [], 0
    while i < len(story):
        last = i
        while (
            last + 1 < len(story) and getattr(story[last], "style", None) in HEADINGS.values()
        ):
            last += 1
        splits = isinstance(story[last], (Table, XPreformatted)) and last > i
        if splits or last == i:
            made += story[i : last + 1]
        else:
            made.append(KeepTogether(story[i : last + 1]))
        i = last + 1
    return made
