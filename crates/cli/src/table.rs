//! Columns as Go's text/tabwriter makes them.
//!
//! Docker prints its tables with a least width of ten, a padding of three
//! blanks. A cell ends with a tab, so the last word of a line is no cell and
//! is not padded; a column is as wide as its widest cell over *neighbouring*
//! lines that have it.

const WIDTH_MIN: usize = 10;

/// Aligns tab-separated lines; `padding` blanks stand behind each cell.
pub(crate) fn align(text: &str, padding: usize, width_min: usize) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> =
        lines.iter().map(|cells| vec![0; cells.len().saturating_sub(1)]).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut first = 0;
        while first < lines.len() {
            if widths[first].len() <= column {
                first += 1;
                continue;
            }
            let count = widths[first..].iter().take_while(|cells| cells.len() > column).count();
            let block = first..first + count;
            let widest = lines[block.clone()]
                .iter()
                .map(|cells| cells[column].chars().count() + padding)
                .max()
                .unwrap_or(0)
                .max(width_min);
            for cells in &mut widths[block.clone()] {
                cells[column] = widest;
            }
            first = block.end;
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (number, cells) in lines.iter().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        for (column, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths[number].get(column) {
                let blanks = width.saturating_sub(cell.chars().count());
                out.extend(std::iter::repeat_n(' ', blanks));
            }
        }
    }
    out
}

/// Aligns with the measures of Docker's lists.
pub(crate) fn list(text: &str) -> String {
    align(text, 3, WIDTH_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_as_wide_as_its_widest_cells() {
        assert_eq!(
            list("REPOSITORY\tTAG\tSIZE\nabc\tlatest-and-greatest\t1B\n"),
            "REPOSITORY   TAG                   SIZE\nabc          latest-and-greatest   1B\n"
        );
        assert_eq!(list("A\tPORTS\tNAMES\n\t\tx\n"), "A         PORTS     NAMES\n                    x\n");
    }

    #[test]
    fn lines_without_a_column_end_its_block() {
        assert_eq!(align("a\tb\nxyz\n1234567\tq\n", 1, 0), "a b\nxyz\n1234567 q\n");
    }
}
