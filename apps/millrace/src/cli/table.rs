//! Columns as wide as their widest cell; numbers to the right.

/// Lays out rows under a header.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let columns = header.len();
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let numeric: Vec<bool> = (0..columns)
        .map(|i| {
            let mut cells = rows.iter().map(|row| row.get(i).map_or("", String::as_str));
            cells.clone().all(|cell| cell.bytes().all(is_numeric))
                && cells.any(|cell| cell.bytes().any(|b| b.is_ascii_digit()))
        })
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (i, cell) in cells.enumerate().take(columns) {
            let gap = " ".repeat(widths[i].saturating_sub(cell.chars().count()));
            if i > 0 {
                text.push_str("  ");
            }
            if numeric[i] {
                text.push_str(&gap);
                text.push_str(cell);
            } else {
                text.push_str(cell);
                text.push_str(&gap);
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

fn is_numeric(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'.' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let rows = vec![vec!["eth0".into(), "5".into()], vec!["e".into(), "12345".into()]];
        assert_eq!(
            table(&["PORT", "RX"], &rows),
            "PORT     RX\neth0      5\ne     12345\n"
        );
    }
}
