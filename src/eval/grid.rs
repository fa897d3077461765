//! Cells as a table for a terminal and as one in Markdown.

/// A table: a head and rows of as many cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grid {
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// A table of these columns.
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// Adds a row.
    pub(super) fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// For a terminal: the first column to the left, the others to the right.
    pub(super) fn plain(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cell = |(i, cell): (usize, &String)| match i {
                0 => format!("{cell:<0$}", widths[i]),
                _ => format!("{cell:>0$}", widths[i]),
            };
            row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        self.rows.iter().map(line).collect()
    }

    /// In Markdown.
    pub(super) fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let safe = |cell: &String| cell.replace('|', "\\|").replace('<', "&lt;");
        let mut out = String::new();
        for (i, row) in self.rows.iter().enumerate() {
            out += &line(row.iter().map(safe).collect());
            if i == 0 {
                let rule = |(i, _): (usize, &String)| if i == 0 { "---" } else { "---:" }.to_owned();
                out += &line(row.iter().enumerate().map(rule).collect());
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_table_in_two_shapes() {
        let mut grid = Grid::new(&["arm", "%"]);
        grid.push(vec!["a|b".to_owned(), "66.7".to_owned()]);
        assert_eq!(grid.plain(), "arm     %\na|b  66.7\n");
        assert_eq!(grid.markdown(), "| arm | % |\n| --- | ---: |\n| a\\|b | 66.7 |\n");
    }
}
