//! Tables of any length: like those of [`table`](super::table), without wrapping, and in a time that
//! grows with their rows only.

/// Draws rows under headings, two spaces between columns, no trailing white space.
pub(crate) fn draw<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(console::measure_text_width);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(console::measure_text_width(cell));
        }
    }
    let mut out = String::new();
    line(&mut out, headings.iter().copied(), &widths);
    for row in rows {
        line(&mut out, row.iter().map(String::as_str), &widths);
    }
    out
}

fn line<'a>(out: &mut String, cells: impl Iterator<Item = &'a str>, widths: &[usize]) {
    let start = out.len();
    for (cell, width) in cells.zip(widths) {
        out.push_str(cell);
        let missing = width.saturating_sub(console::measure_text_width(cell));
        out.extend(std::iter::repeat_n(' ', missing + 2));
    }
    let end = out.get(start..).map_or(0, |line| line.trim_end().len());
    out.truncate(start + end);
    out.push('\n');
}

/// A text that somebody else wrote, as one line that does nothing to the terminal.
pub(crate) fn printable(text: &str) -> String {
    let escape = |character: char| -> String {
        if character.is_control() {
            character.escape_debug().to_string()
        } else {
            character.to_string()
        }
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_seen() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let rows = [row("web", "1"), row("日本", ""), row("a-long-name", "22")];
        assert_eq!(
            draw(["ITEM", "N"], &rows),
            "ITEM         N\nweb          1\n日本\na-long-name  22\n"
        );
    }

    #[test]
    fn what_others_wrote_cannot_move_the_cursor() {
        assert_eq!(printable("a\nb\u{1b}[2J«ü»"), "a\\nb\\u{1b}[2J«ü»");
    }
}
