#!/usr/bin/env python3
"""Runs a command on a terminal of its own and draws what it showed as an SVG picture.

    capture.py FILE.svg [--title TEXT] [--moment TEXT] [--columns N] [--parts FILE.json] 'COMMAND'

With --parts the picture begins with the commands of earlier calls with the same file. Of each
command it has one moment of the run, the one with the most lines on the screen that were gone at
the end (the progress display; with --moment only when TEXT was to be seen), and the screen as the
command left it. Its output goes to our
standard output as well, and its exit code is ours. Needs nothing but Python; understands the
control sequences that line-oriented programs use, not those of full-screen ones.
"""

import argparse
import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
from html import escape

ROWS = 60
# Size of a cell and the colours of the picture; numbers as in SGR sequences.
CELL_WIDTH, LINE_HEIGHT, FONT_SIZE, MARGIN = 8.4, 19, 14, 18
BACKGROUND, BAR, TEXT, FAINT, PROMPT = "#16191f", "#252a33", "#d5d9e0", "#7b8494", "#8cc570"
COLOURS = {
    31: "#e5707a", 32: "#8cc570", 33: "#e0b96a", 34: "#6ea8f0", 35: "#c08be0", 36: "#5cbcc4",
    90: FAINT, 91: "#e5707a", 92: "#8cc570", 93: "#e0b96a", 94: "#6ea8f0", 95: "#c08be0", 96: "#5cbcc4",
}  # fmt: skip
SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b[()][A-Z0-9]|\x1b.|.|\n", re.DOTALL)


class Screen:
    """Lines of cells; a cell is a character with its colour and whether it is bold."""

    def __init__(self, columns):
        self.columns, self.row, self.column = columns, 0, 0
        self.lines, self.style = [[]], (TEXT, False)

    def feed(self, text):
        for match in SEQUENCE.finditer(text):
            if match[2]:
                self.control(match[2], [int(n) if n.isdigit() else 0 for n in match[1].split(";")])
            elif not match[0].startswith("\x1b"):
                self.put(match[0])

    def put(self, character):
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.move(self.row + 1)
        elif character >= " ":
            if self.column >= self.columns:
                self.move(self.row + 1)
                self.column = 0
            line = self.lines[self.row]
            line.extend([(" ", (TEXT, False))] * (self.column + 1 - len(line)))
            line[self.column] = (character, self.style)
            self.column += 1

    def move(self, row):
        self.row = max(row, 0)
        self.lines.extend([] for _ in range(self.row + 1 - len(self.lines)))

    def control(self, final, numbers):
        count = numbers[0] or 1
        line = self.lines[self.row]
        if final == "A":
            self.move(self.row - count)
        elif final == "B":
            self.move(self.row + count)
        elif final == "C":
            self.column += count
        elif final == "D":
            self.column = max(self.column - count, 0)
        elif final == "G":
            self.column = count - 1
        elif final == "K":
            if numbers[0] == 2:
                line.clear()
            elif numbers[0] == 0:
                del line[self.column :]
        elif final == "J" and numbers[0] == 0:
            del line[self.column :]
            del self.lines[self.row + 1 :]
        elif final == "m":
            self.colour(numbers)

    def colour(self, numbers):
        for number in numbers:
            colour, bold = self.style
            if number == 0:
                self.style = (TEXT, False)
            elif number == 1:
                self.style = (colour, True)
            elif number == 2:
                self.style = (FAINT, bold)
            elif number in COLOURS:
                self.style = (COLOURS[number], bold)
            elif number in (22, 39):
                self.style = (TEXT, False)

    def shown(self):
        lines = [list(line) for line in self.lines]
        while lines and not any(cell[0].strip() for cell in lines[-1]):
            lines.pop()
        return lines


def record(command, columns):
    """The screens between two writes of the command, the last one, and the exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        os.environ["TERM"] = "xterm-256color"
        os.execvp("sh", ["sh", "-c", "exec " + command])
    screen, screens, pending = Screen(columns), [], b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        pending += data
        # A character or a sequence may be cut between two reads; screens change many times.
        text = pending.decode("utf-8", "ignore")
        if pending.endswith((b"\x1b", b"[")) or text.encode() != pending:
            continue
        pending = b""
        screen.feed(text)
        screens.append(screen.shown())
    return screens, screen.shown(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def text_of(lines):
    return ["".join(cell[0] for cell in line).rstrip() for line in lines]


def busiest(screens, last, moment):
    """The screen with the most lines that were gone at the end; of equals the middle one."""
    kept = set(text_of(last))
    screens = [screen for screen in screens if moment in "\n".join(text_of(screen))]
    counts = [sum(1 for line in text_of(screen) if line and line not in kept) for screen in screens]
    if not counts or max(counts) == 0:
        return []
    equals = [screen for screen, count in zip(screens, counts) if count == max(counts)]
    return equals[len(equals) // 2]


def spans(line):
    """Text of one line as runs of one style each, with the column of each.

    What is not ASCII has runs of its own: where a font lacks it, another one draws the whole run."""
    runs = []
    for column, (character, style) in enumerate(line):
        if runs and runs[-1][2] == style and runs[-1][1].isascii() == character.isascii():
            runs[-1][1] += character
        else:
            runs.append([column, character, style])
    return [(column, text, style) for column, text, style in runs if text.strip()]


def draw(title, parts, columns):
    rows = []
    for command, *screens in parts:
        rows += [[]] if rows else []
        rows.append([(c, (PROMPT if n < 2 else TEXT, n >= 2)) for n, c in enumerate("$ " + command)])
        for number, screen in enumerate(screen for screen in screens if screen):
            rows += ([[]] if number else []) + screen
    width = round(columns * CELL_WIDTH + 2 * MARGIN)
    top = 36 + MARGIN
    height = top + len(rows) * LINE_HEIGHT + MARGIN - 6
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="9" fill="{BACKGROUND}"/>',
        f'<path d="M0 36V9a9 9 0 0 1 9-9H{width - 9}a9 9 0 0 1 9 9V36Z" fill="{BAR}"/>',
    ]
    for number, colour in enumerate(("#e5707a", "#e0b96a", "#8cc570")):
        out.append(f'<circle cx="{20 + 20 * number}" cy="18" r="6" fill="{colour}"/>')
    family = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"
    out.append(f'<g font-family="{family}" font-size="{FONT_SIZE}" xml:space="preserve">')
    out.append(f'<text x="{width / 2}" y="23" fill="{FAINT}" text-anchor="middle">{escape(title)}</text>')
    for number, row in enumerate(rows):
        y = top + number * LINE_HEIGHT + 6
        for column, text, (colour, bold) in spans(row):
            text = text.rstrip()
            weight = ' font-weight="bold"' if bold else ""
            length = len(text) * CELL_WIDTH
            out.append(
                f'<text x="{MARGIN + column * CELL_WIDTH:.1f}" y="{y}" textLength="{length:.1f}"'
                f' fill="{colour}"{weight}>{escape(text)}</text>'
            )
    return "\n".join([*out, "</g>", "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--title", default="")
    parser.add_argument("--moment", default="")
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--parts")
    parser.add_argument("command")
    arguments = parser.parse_args()
    screens, last, code = record(arguments.command, arguments.columns)
    parts = []
    if arguments.parts and os.path.exists(arguments.parts):
        with open(arguments.parts, encoding="utf-8") as file:
            parts = json.load(file)
    parts.append([arguments.command, busiest(screens, last, arguments.moment), last])
    if arguments.parts:
        with open(arguments.parts, "w", encoding="utf-8") as file:
            json.dump(parts, file)
    with open(arguments.file, "w", encoding="utf-8") as file:
        file.write(draw(arguments.title or arguments.command, parts, arguments.columns))
    sys.exit(code)


main()
