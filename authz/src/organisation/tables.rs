//! Reads TOML tables strictly: foreign keys are findings, every finding knows its place.

use toml_edit::{Document, Item, TableLike};

use crate::finding::{Findings, Problem};
use crate::json::Position;

/// One file.
pub(super) struct TomlFile<'t> {
    text: &'t str,
    document: Document<&'t str>,
}

/// One table of a file and where its findings go.
pub(super) struct Table<'d, 'f, 'l> {
    text: &'d str,
    table: &'d dyn TableLike,
    at: Position,
    pub findings: &'f mut Findings<'l>,
}

impl<'t> TomlFile<'t> {
    pub fn parse(text: &'t str, findings: &mut Findings<'_>) -> Option<Self> {
        match Document::parse(text) {
            Ok(document) => Some(Self { text, document }),
            Err(error) => {
                let at = position(text, error.span().map_or(0, |s| s.start));
                let message = error.message().lines().next().unwrap_or("syntax error").into();
                findings.add(at, Problem::Toml { message });
                None
            }
        }
    }

    pub fn root<'d, 'f, 'l>(&'d self, findings: &'f mut Findings<'l>) -> Table<'d, 'f, 'l> {
        Table { text: self.text, table: self.document.as_table(), at: Position::START, findings }
    }
}

impl<'d, 'l> Table<'d, '_, 'l> {
    /// Where the table begins.
    pub fn at(&self) -> Position {
        self.at
    }

    /// Reports keys other than these.
    pub fn only(&mut self, known: &[&str]) {
        for (name, item) in self.table.iter() {
            if !known.contains(&name) {
                let key = self.table.key(name).and_then(toml_edit::Key::span);
                let start = key.or_else(|| item.span()).map_or(0, |s| s.start);
                self.findings.add(position(self.text, start), Problem::Unknown { name: name.into() });
            }
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    fn place(&self, item: &Item) -> Position {
        item.span().map_or(self.at, |s| position(self.text, s.start))
    }

    /// A string, when there.
    pub fn text(&mut self, name: &str) -> Option<(Position, &'d str)> {
        let item = self.table.get(name)?;
        let at = self.place(item);
        match item.as_str() {
            Some("") => {
                self.findings.add(at, Problem::Empty { element: name.into() });
                None
            }
            Some(text) => Some((at, text)),
            None => {
                self.findings.add(at, Problem::WrongType { element: name.into(), expected: "a string" });
                None
            }
        }
    }

    /// A whole number within bounds, when there.
    pub fn whole_number(
        &mut self,
        name: &str,
        bounds: std::ops::RangeInclusive<i64>,
        expected: &'static str,
    ) -> Option<i64> {
        let item = self.table.get(name)?;
        let at = self.place(item);
        let number = item.as_integer().filter(|number| bounds.contains(number));
        if number.is_none() {
            self.findings.add(at, Problem::WrongType { element: name.into(), expected });
        }
        number
    }

    /// A truth value, or what it is without the key.
    pub fn truth(&mut self, name: &str, default: bool) -> bool {
        let Some(item) = self.table.get(name) else { return default };
        let at = self.place(item);
        item.as_bool().unwrap_or_else(|| {
            self.findings.add(at, Problem::WrongType { element: name.into(), expected: "true or false" });
            default
        })
    }

    /// A string that must be there.
    pub fn required(&mut self, name: &'static str) -> Option<(Position, &'d str)> {
        if !self.has(name) {
            self.findings.add(self.at, Problem::Missing { name });
        }
        self.text(name)
    }

    /// A whole number within bounds, when there.
    pub fn whole(&mut self, name: &str, least: i64, most: i64) -> Option<u64> {
        let item = self.table.get(name)?;
        match item.as_integer().filter(|number| (least..=most).contains(number)) {
            Some(number) => u64::try_from(number).ok(),
            None => {
                let at = self.place(item);
                let expected = "a whole number, not negative";
                self.findings.add(at, Problem::WrongType { element: name.into(), expected });
                None
            }
        }
    }

    /// A list of strings; nothing when absent.
    pub fn texts(&mut self, name: &str) -> Vec<(Position, &'d str)> {
        let Some(item) = self.table.get(name) else {
            return Vec::new();
        };
        let Some(array) = item.as_array() else {
            let at = self.place(item);
            self.findings.add(at, Problem::WrongType { element: name.into(), expected: "a list of strings" });
            return Vec::new();
        };
        self.strings(name, array)
    }

    /// A list of lists of strings; nothing when absent.
    pub fn lists(&mut self, name: &str) -> Vec<Vec<(Position, &'d str)>> {
        let Some(item) = self.table.get(name) else {
            return Vec::new();
        };
        let Some(array) = item.as_array() else {
            let at = self.place(item);
            let expected = "a list of lists of strings";
            self.findings.add(at, Problem::WrongType { element: name.into(), expected });
            return Vec::new();
        };
        let mut lists = Vec::new();
        for value in array {
            match value.as_array() {
                Some(inner) => lists.push(self.strings(name, inner)),
                None => {
                    let at = position(self.text, value.span().map_or(0, |s| s.start));
                    let expected = "a list of lists of strings";
                    self.findings.add(at, Problem::WrongType { element: name.into(), expected });
                }
            }
        }
        lists
    }

    fn strings(&mut self, name: &str, array: &'d toml_edit::Array) -> Vec<(Position, &'d str)> {
        let mut list = Vec::new();
        for value in array {
            let at = position(self.text, value.span().map_or(0, |s| s.start));
            match value.as_str() {
                Some(text) => list.push((at, text)),
                None => self.findings.add(at, Problem::WrongType { element: name.into(), expected: "strings" }),
            }
        }
        list
    }

    /// A table in this one, handed to `read`.
    pub fn table<T>(
        &mut self,
        name: &'static str,
        required: bool,
        read: impl FnOnce(&mut Table<'d, '_, 'l>) -> Option<T>,
    ) -> Option<T> {
        let Some(item) = self.table.get(name) else {
            if required {
                self.findings.add(self.at, Problem::Missing { name });
            }
            return None;
        };
        let at = self.place(item);
        let Some(table) = item.as_table_like() else {
            self.findings.add(at, Problem::WrongType { element: name.into(), expected: "a table" });
            return None;
        };
        read(&mut Table { text: self.text, table, at, findings: &mut *self.findings })
    }

    /// Every element of an array of tables, handed to `read`.
    pub fn tables(&mut self, name: &str, mut read: impl FnMut(&mut Table<'d, '_, 'l>)) {
        let Some(item) = self.table.get(name) else {
            return;
        };
        let Some(array) = item.as_array_of_tables() else {
            let at = self.place(item);
            self.findings.add(at, Problem::WrongType { element: name.into(), expected: "tables in [[…]]" });
            return;
        };
        for table in array {
            let at = position(self.text, table.span().map_or(0, |s| s.start));
            read(&mut Table { text: self.text, table, at, findings: &mut *self.findings });
        }
    }

    /// All keys with string values.
    pub fn pairs(&mut self) -> Vec<(Box<str>, Box<str>)> {
        let mut pairs = Vec::new();
        for (name, item) in self.table.iter() {
            match item.as_str() {
                Some(text) => pairs.push((name.into(), text.into())),
                None => {
                    let at = self.place(item);
                    self.findings.add(at, Problem::WrongType { element: name.into(), expected: "a string" });
                }
            }
        }
        pairs
    }
}

/// Line and column of a byte.
fn position(text: &str, byte: usize) -> Position {
    let before = text.get(..byte).unwrap_or(text);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1);
    let line_start = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
    let column = before.get(line_start..).map_or(0, |line| line.chars().count());
    Position { line: count(before.matches('\n').count()), column: count(column) }
}
