//! Figures as a table for people, on the standard output.

#![allow(clippy::print_stdout, reason = "figures are to be seen when all is well, too")]

/// A table in Markdown.
pub(crate) struct Table(String, usize);

impl Table {
    pub(crate) fn new(names: &[&str]) -> Self {
        let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
        Self(line(names) + &line(&vec!["---"; names.len()]), names.len())
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.1);
        self.0 += &format!("| {} |\n", cells.join(" | "));
    }

    pub(crate) fn print(&self, title: &str) {
        println!("\n{title}\n\n{}", self.0);
    }
}
