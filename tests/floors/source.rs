//! Enough of Rust's grammar to say which paths a file names: words, paths with `use` trees and
//! inline modules, and which items are there for tests only.

use std::path::{Path, PathBuf};

/// A path that a file names, `super` and `self` resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its line, from 1.
    pub(crate) line: usize,
    /// Its segments, the crate's name (or `crate`) first.
    pub(crate) path: Vec<String>,
}

/// What a file says, comments and literals apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    /// Paths outside of test items, those that begin with `crate`, `super`, `self` or a word.
    pub(crate) named: Vec<Named>,
    /// Modules for tests only that stand in files of their own.
    pub(crate) test_modules: Vec<Vec<String>>,
    /// Lines of the words `unsafe` and `unsafe_code`, tests included.
    pub(crate) unsafe_lines: Vec<usize>,
    /// Every block was closed: the reader did not take code for a literal, or a literal for code.
    pub(crate) complete: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    line: usize,
    text: String,
}

/// The module that a file is: `src/net/mod.rs` is `net`, `src/link/setup.rs` is `link::setup`.
pub(crate) fn module_of(file: &Path) -> Vec<String> {
    let path = file.strip_prefix("src").unwrap_or(file).with_extension("");
    let mut module: Vec<String> =
        path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

/// The files below `directory` whose names end in `.rs`, relative to `root`.
pub(crate) fn files(root: &Path, directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root.join(directory)];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Reads a file's text.
pub(crate) fn read(file: &Path, text: &str) -> Source {
    let tokens = tokens(text);
    let is_unsafe = |token: &&Token| matches!(token.text.as_str(), "unsafe" | "unsafe_code");
    let unsafe_lines = tokens.iter().filter(is_unsafe).map(|token| token.line).collect();
    let mut walk = Walk {
        tokens: &tokens,
        at: 0,
        module: module_of(file),
        opened: Vec::new(),
        depth: 0,
        source: Source { unsafe_lines, ..Source::default() },
    };
    walk.run();
    walk.source.complete = walk.depth == 0 && walk.opened.is_empty();
    walk.source
}

/// The words and signs of a text; `::` is one sign. Comments are left out, a literal is `"`.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let get = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        let mut text = String::new();
        match get(at) {
            '/' if get(at + 1) == '/' => at += count(&chars[at..], |c| c != '\n'),
            '/' if get(at + 1) == '*' => at += block_comment(&chars[at..]),
            c if c.is_whitespace() => at += 1,
            '"' => {
                at += string(&chars[at..], 0, true);
                text.push('"');
            }
            // A lifetime has no closing quote after its first character.
            '\'' if get(at + 1) != '\\' && get(at + 2) != '\'' => at += 1,
            '\'' => {
                // The quoted character itself may be a quote, behind a backslash.
                let first = if get(at + 1) == '\\' { 3 } else { 2 };
                at += first + count(&chars[at + first..], |c| c != '\'') + 1;
                text.push('"');
            }
            ':' if get(at + 1) == ':' => {
                at += 2;
                text.push_str("::");
            }
            c if is_word(c) => {
                at += count(&chars[at..], is_word);
                let word: String = chars[start..at].iter().collect();
                let hashes = count(&chars[at..], |c| c == '#');
                let prefix = matches!(word.as_str(), "r" | "b" | "br" | "c" | "cr");
                if prefix && get(at + hashes) == '"' {
                    at += hashes + string(&chars[at + hashes..], hashes, !word.contains('r'));
                    text.push('"');
                } else if word == "r" && hashes == 1 {
                    at += 1;
                } else {
                    text = word;
                }
            }
            c => {
                at += 1;
                text.push(c);
            }
        }
        if !text.is_empty() {
            tokens.push(Token { line, text });
        }
        line += chars[start..at.min(chars.len())].iter().filter(|&&c| c == '\n').count();
    }
    tokens
}

fn count(chars: &[char], wanted: impl Fn(char) -> bool) -> usize {
    chars.iter().take_while(|&&c| wanted(c)).count()
}

fn block_comment(chars: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of the string literal at the head of `chars`, from its quote on.
fn string(chars: &[char], hashes: usize, escapes: bool) -> usize {
    let mut at = 1;
    while at < chars.len() {
        match chars[at] {
            '\\' if escapes => at += 2,
            '"' if count(&chars[at + 1..], |c| c == '#') >= hashes => return at + 1 + hashes,
            _ => at += 1,
        }
    }
    at
}

struct Walk<'t> {
    tokens: &'t [Token],
    at: usize,
    /// The module that the walk is in.
    module: Vec<String>,
    /// The depths at which inline modules were entered.
    opened: Vec<isize>,
    depth: isize,
    source: Source,
}

impl Walk<'_> {
    fn text(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |token| &token.text)
    }

    fn run(&mut self) {
        while self.at < self.tokens.len() {
            match self.text(0) {
                "#" if self.text(1) == "[" => self.attribute(),
                "mod" if self.text(2) == "{" => {
                    self.module.push(self.text(1).to_owned());
                    self.opened.push(self.depth);
                    self.at += 2;
                }
                "{" => {
                    self.depth += 1;
                    self.at += 1;
                }
                "}" => {
                    self.depth -= 1;
                    if self.opened.last() == Some(&self.depth) {
                        self.opened.pop();
                        self.module.pop();
                    }
                    self.at += 1;
                }
                // The word after a dot is a field or a method, whatever it is called.
                "." => self.at += 1 + usize::from(is_name(self.text(1))),
                text if is_name(text) => {
                    let line = self.tokens[self.at].line;
                    let mut paths = Vec::new();
                    self.tree(&Vec::new(), &mut paths);
                    for path in paths {
                        let path = resolve(&self.module, path);
                        self.source.named.push(Named { line, path });
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    /// A path, or a `use` tree; what comes before it is `prefix`.
    fn tree(&mut self, prefix: &[String], paths: &mut Vec<Vec<String>>) {
        let mut path = prefix.to_vec();
        loop {
            if self.text(0) == "{" && !path.is_empty() {
                self.at += 1;
                while self.at < self.tokens.len() && self.text(0) != "}" {
                    if self.text(0) == "," { self.at += 1 } else { self.tree(&path, paths) }
                }
                self.at += 1;
                return;
            }
            // A name, or `*`.
            if is_name(self.text(0)) {
                path.push(self.text(0).to_owned());
            }
            self.at += 1;
            if self.text(0) != "::" || !(is_name(self.text(1)) || "{*".contains(self.text(1))) {
                break;
            }
            self.at += 1;
        }
        paths.push(path);
    }

    /// An attribute; with `cfg(test)`, the item behind it is passed over.
    fn attribute(&mut self) {
        let words = self.attribute_words();
        if !is_cfg_test(&words) {
            return;
        }
        let mut file = None;
        while self.text(0) == "#" {
            self.attribute_words();
        }
        while matches!(self.text(0), "pub" | "(" | ")" | "crate" | "super" | "in" | "self" | "::") {
            self.at += 1;
        }
        if self.text(0) == "mod" && self.text(2) == ";" {
            file = Some(self.text(1).to_owned());
        }
        self.skip_item();
        if let Some(name) = file {
            let mut module = self.module.clone();
            module.push(name);
            self.source.test_modules.push(module);
        }
    }

    fn attribute_words(&mut self) -> Vec<String> {
        let (mut words, mut depth) = (Vec::new(), 0);
        self.at += 1;
        while self.at < self.tokens.len() {
            match self.text(0) {
                "[" => depth += 1,
                "]" => depth -= 1,
                word => words.push(word.to_owned()),
            }
            self.at += 1;
            if depth == 0 {
                break;
            }
        }
        words
    }

    /// Passes an item: to its semicolon, the end of its block, or where the block around it ends; a
    /// field, a variant or an argument to its comma.
    fn skip_item(&mut self) {
        let keywords = [
            "async",
            "const",
            "enum",
            "extern",
            "fn",
            "impl",
            "let",
            "macro_rules",
            "mod",
            "static",
            "struct",
            "trait",
            "type",
            "union",
            "unsafe",
            "use",
        ];
        let is_item = keywords.contains(&self.text(0));
        let mut depth = 0;
        while self.at < self.tokens.len() {
            match self.text(0) {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" if depth == 0 => return,
                text @ ("}" | ")" | "]") => {
                    depth -= 1;
                    if depth == 0 && text == "}" {
                        self.at += 1;
                        return;
                    }
                }
                ";" if depth == 0 => {
                    self.at += 1;
                    return;
                }
                "," if depth == 0 && !is_item => {
                    self.at += 1;
                    return;
                }
                _ => {}
            }
            self.at += 1;
        }
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// `cfg(test)`, or `cfg(all(test, ...))`: what is not there without tests.
fn is_cfg_test(words: &[String]) -> bool {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    words == ["cfg", "(", "test", ")"] || words.starts_with(&["cfg", "(", "all", "(", "test", ","])
}

/// The path from the crate's root on, if it begins with `self` or `super`.
fn resolve(module: &[String], path: Vec<String>) -> Vec<String> {
    let supers = path.iter().take_while(|word| *word == "super").count();
    let from_self = usize::from(path.first().is_some_and(|word| word == "self"));
    if supers + from_self == 0 {
        return path;
    }
    let home = &module[..module.len().saturating_sub(supers)];
    let rest = &path[supers + from_self..];
    std::iter::once("crate".to_owned()).chain(home.iter().chain(rest).cloned()).collect()
}
