//! Plain tables: two spaces between columns, no lines, no trailing white space.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

/// Draws rows under headings. The last column wraps at the width of the terminal (or 100).
pub(crate) fn draw(headings: &[&str], rows: Vec<Vec<String>>, width: u16) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .set_header(headings.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if column.index + 1 < headings.len() {
            // Names and numbers are read as wholes; only the last column may wrap.
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let lines: Vec<String> =
        table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// The width to draw for: the terminal's, within reason.
pub(crate) fn width() -> u16 {
    const WITHOUT_TERMINAL: u16 = 100;
    let columns = console::Term::stdout().size_checked().map(|(_, columns)| columns);
    columns.unwrap_or(WITHOUT_TERMINAL).clamp(60, 160)
}
