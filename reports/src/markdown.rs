//! Markdown as GitHub renders it: tables with tidy sources, escapes.

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Names and messages.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these left-aligned and then these right-aligned columns.
    pub(crate) fn new<S: Into<String>>(left: impl IntoIterator<Item = S>, right: impl IntoIterator<Item = S>) -> Self {
        let left = left.into_iter().map(|name| (name.into(), Align::Left));
        let right = right.into_iter().map(|name| (name.into(), Align::Right));
        Self { columns: left.chain(right).collect(), rows: vec![] }
    }

    /// Adds a left-aligned column at the end.
    pub(crate) fn left(mut self, name: &str) -> Self {
        self.columns.push((name.to_owned(), Align::Left));
        self
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.columns.len(), "cells of a row");
        self.rows.push(row);
    }

    /// True without rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table's lines, with padded cells. The last column is not padded if it is aligned left: a long message
    /// must not make every line as long.
    pub(crate) fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|c| {
                let cells = self.rows.iter().map(|row| row[c].chars().count());
                cells.chain([self.columns[c].0.chars().count(), 3]).max().unwrap_or(3)
            })
            .collect();
        let last = self.columns.len() - 1;
        let width = |c: usize| if c == last && self.columns[c].1 == Align::Left { 3 } else { widths[c] };
        let line = |cells: &mut dyn Iterator<Item = &String>| {
            let padded: Vec<String> = cells
                .enumerate()
                .map(|(c, text)| match self.columns[c].1 {
                    Align::Left => format!("{text:<width$}", width = width(c)),
                    Align::Right => format!("{text:>width$}", width = width(c)),
                })
                .collect();
            format!("| {} |\n", padded.join(" | "))
        };
        let rules: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(c, (_, align))| match align {
                Align::Left => format!(":{}", "-".repeat(width(c) - 1)),
                Align::Right => format!("{}:", "-".repeat(width(c) - 1)),
            })
            .collect();
        let mut out = line(&mut self.columns.iter().map(|(name, _)| name));
        out += &line(&mut rules.iter());
        for row in &self.rows {
            out += &line(&mut row.iter());
        }
        out
    }
}

/// Text on one line: runs of white space become one space.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text that means itself inside a table or a paragraph.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let line = one_line(text);
    let letters: Vec<char> = line.chars().collect();
    for (i, &letter) in letters.iter().enumerate() {
        // An underscore inside a word is no emphasis.
        let word = |at: Option<usize>| at.and_then(|at| letters.get(at)).is_some_and(|c| c.is_alphanumeric());
        let special = match letter {
            '\\' | '|' | '`' | '*' | '<' | '>' | '[' | ']' | '~' => true,
            '_' => !(word(i.checked_sub(1)) && word(Some(i + 1))),
            _ => false,
        };
        if special {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

/// Text as code; plain where it holds a backtick, which would end it.
pub(crate) fn code(text: &str) -> String {
    if text.contains('`') || text.trim().is_empty() {
        return escape(text);
    }
    format!("`{}`", one_line(text).replace('|', "\\|"))
}

/// Text as a block of its own, fenced so that nothing in it can end the block.
pub(crate) fn block(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_tidy() {
        let mut table = Table::new(["name"], ["top-1, %"]).left("detail");
        table.push(vec!["ce".into(), "9.17".into(), "".into()]);
        table.push(vec!["pac-mcl-le".into(), "100.00".into(), "a much longer text".into()]);
        let want = "\
| name       | top-1, % | detail |
| :--------- | -------: | :-- |
| ce         |     9.17 |     |
| pac-mcl-le |   100.00 | a much longer text |
";
        assert_eq!(table.render(), want);
    }

    #[test]
    fn nothing_breaks_out() {
        assert_eq!(escape("a|b\n  c_d _e_ <x> *y*"), r"a\|b c_d \_e\_ \<x\> \*y\*");
        assert_eq!(code("a|b"), r"`a\|b`");
        assert_eq!(code("a`b"), r"a\`b");
        assert_eq!(block("x ```` y"), "`````text\nx ```` y\n`````\n");
        assert_eq!(block("cargo run\n"), "```text\ncargo run\n```\n");
    }
}
