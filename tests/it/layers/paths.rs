//! The paths that the files of `src/` name, each from the root of the crate.
//!
//! In: the source text of a file. Out: every path through `crate::`, `super::` or a name that a `use`
//! of the file brings in, groups expanded (`crate::{a, b::{c, D}}` is `a`, `b::c` and `b::D`), and what it is behind
//! each `pub use` on its way. Items under `#[cfg(test)]` are left out: tests may build values of later stages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Segments from the root of the crate.
pub(super) type Names = Vec<String>;

/// A path of a `use`, and the name that it brings in.
type Import = (Names, String);

/// The paths of one file, before re-exports are followed.
#[derive(Debug, Default)]
pub(super) struct File {
    /// The module that the file is.
    pub(super) module: Names,
    /// Every path.
    pub(super) paths: BTreeSet<Names>,
    /// By the full path of the name: what a `pub use` puts there.
    re_exports: BTreeMap<Names, Names>,
}

/// The scope of a token: its module, and the names that begin a path there.
struct Scope {
    module: Names,
    begins: BTreeMap<String, Names>,
}

impl File {
    /// Read the file at `below`, a path from `src/`.
    pub(super) fn read(below: &Path, source: &str) -> Self {
        let module = below.with_extension("");
        let module: Names = module
            .iter()
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name != "lib" && name != "main")
            .collect();
        let tokens: TokenStream = source.parse().expect("a source file has whole tokens");
        let mut file = Self {
            module: module.clone(),
            ..Self::default()
        };
        file.walk_module(module, tokens);
        file
    }

    fn walk_module(&mut self, module: Names, tokens: TokenStream) {
        let tokens = without_tests(tokens);
        let mut scope = Scope {
            module,
            begins: BTreeMap::new(),
        };
        scope.begins.insert("crate".into(), Vec::new());
        scope.begins.insert("self".into(), scope.module.clone());
        for [first, second] in tokens.array_windows() {
            if let (true, Some(child)) = (is_word(first, "mod"), word(second)) {
                let path = [scope.module.clone(), vec![child.clone()]].concat();
                scope.begins.insert(child, path);
            }
        }
        self.collect_imports(&tokens, &mut scope);
        self.collect_paths(&tokens, &scope);
    }

    /// Every `use`, those within functions, too.
    fn collect_imports(&mut self, tokens: &[TokenTree], scope: &mut Scope) {
        for (at, token) in tokens.iter().enumerate() {
            if let TokenTree::Group(group) = token
                && !is_inline_module(tokens, at)
            {
                self.collect_imports(&without_tests(group.stream()), scope);
            }
            if !is_word(token, "use") {
                continue;
            }
            let is_public = at > 0 && is_visibility(&tokens[..at]);
            for (path, name) in use_tree(&tokens[at + 1..]) {
                let Some(path) = scope.resolve(&path) else { continue };
                if is_public {
                    let exported = [scope.module.clone(), vec![name.clone()]].concat();
                    self.re_exports.insert(exported, path.clone());
                }
                scope.begins.insert(name, path.clone());
                self.paths.insert(path);
            }
        }
    }

    /// Every path outside of `use`.
    fn collect_paths(&mut self, tokens: &[TokenTree], scope: &Scope) {
        let mut in_use = false;
        for (at, token) in tokens.iter().enumerate() {
            in_use = (in_use || is_word(token, "use")) && !is_punct(token, ';');
            if in_use {
                continue;
            }
            match token {
                TokenTree::Group(group) if is_inline_module(tokens, at) => {
                    let name = word(&tokens[at - 1]).expect("a module has a name");
                    self.walk_module([scope.module.clone(), vec![name]].concat(), group.stream());
                }
                TokenTree::Group(group) => self.collect_paths(&without_tests(group.stream()), scope),
                TokenTree::Ident(_) if !follows_colons(tokens, at) => {
                    let path = segments(&tokens[at..]);
                    if path.len() > 1
                        && let Some(path) = scope.resolve(&path)
                    {
                        self.paths.insert(path);
                    }
                }
                _ => {}
            }
        }
    }
}

impl Scope {
    /// The path from the root of the crate; `None`: it leads into another crate.
    fn resolve(&self, path: &[String]) -> Option<Names> {
        let supers = path.iter().take_while(|name| *name == "super").count();
        if supers > 0 {
            let parent = self.module.len().checked_sub(supers)?;
            return Some([&self.module[..parent], &path[supers..]].concat());
        }
        let (first, rest) = path.split_first()?;
        let begin = self.begins.get(first)?;
        Some([begin.as_slice(), rest].concat())
    }
}

/// Every path of a file, and the paths behind each re-export on its way.
pub(super) fn followed(file: &File, all: &[File]) -> BTreeSet<Names> {
    let mut found = file.paths.clone();
    let mut open: Vec<Names> = found.iter().cloned().collect();
    while let Some(path) = open.pop() {
        for length in 1..=path.len() {
            let (start, rest) = path.split_at(length);
            for target in all.iter().filter_map(|file| file.re_exports.get(start)) {
                let behind = [target.as_slice(), rest].concat();
                if found.insert(behind.clone()) {
                    open.push(behind);
                }
            }
        }
    }
    found
}

/// The tokens without the items under `#[cfg(test)]`.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept: Vec<TokenTree> = Vec::new();
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        let is_attribute = |token: &TokenTree| match token {
            TokenTree::Group(group) => group.stream().to_string().replace(' ', "") == "cfg(test)",
            _ => false,
        };
        if is_attribute(&token) && kept.last().is_some_and(|last| is_punct(last, '#')) {
            kept.pop();
            // Through the body or the semicolon that ends the item.
            let ends = |token: &TokenTree| match token {
                TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                other => is_punct(other, ';'),
            };
            tokens.find(ends);
        } else {
            kept.push(token);
        }
    }
    kept
}

/// The paths of what follows `use`, each with the name that it brings in.
fn use_tree(tokens: &[TokenTree]) -> Vec<Import> {
    let path = segments(tokens);
    // Each segment but the first has two colons before it.
    let mut rest = &tokens[(3 * path.len()).saturating_sub(2)..];
    if let [first, second, third, ..] = rest
        && is_punct(first, ':')
        && is_punct(second, ':')
    {
        if let TokenTree::Group(group) = third {
            let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
            let parts = tokens
                .split(|token| is_punct(token, ','))
                .filter(|part| !part.is_empty());
            let below = parts.flat_map(use_tree);
            return below
                .map(|(below, name)| match below.as_slice() {
                    [only] if only == "self" => (path.clone(), path.last().cloned().unwrap_or_default()),
                    _ => ([path.clone(), below].concat(), name),
                })
                .collect();
        }
        rest = &rest[3..];
    }
    let renamed = match rest {
        [as_word, name, ..] if is_word(as_word, "as") => word(name),
        _ => None,
    };
    let name = renamed.or_else(|| path.last().cloned()).unwrap_or_default();
    vec![(path, name)]
}

/// The words `a::b::c` at the start of the tokens.
fn segments(tokens: &[TokenTree]) -> Names {
    let mut names: Names = tokens.first().and_then(word).into_iter().collect();
    while !names.is_empty()
        && let [colon, second, next, ..] = &tokens[3 * names.len() - 2..]
        && is_punct(colon, ':')
        && is_punct(second, ':')
        && let Some(name) = word(next)
    {
        names.push(name);
    }
    names
}

fn word(token: &TokenTree) -> Option<String> {
    match token {
        TokenTree::Ident(name) => Some(name.to_string()),
        _ => None,
    }
}

fn is_word(token: &TokenTree, expected: &str) -> bool {
    matches!(token, TokenTree::Ident(name) if name == expected)
}

fn is_punct(token: &TokenTree, expected: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == expected)
}

/// Whether the word at a place belongs to a path that begins before it, or is the name of a method or field.
fn follows_colons(tokens: &[TokenTree], at: usize) -> bool {
    let is_dot = |back: usize| at >= back && is_punct(&tokens[at - back], '.');
    at >= 2 && is_punct(&tokens[at - 1], ':') && is_punct(&tokens[at - 2], ':') || is_dot(1)
}

/// Whether the tokens end in `pub` or `pub(…)`.
fn is_visibility(tokens: &[TokenTree]) -> bool {
    match tokens {
        [.., word, TokenTree::Group(group)] if group.delimiter() == Delimiter::Parenthesis => is_word(word, "pub"),
        [.., word] => is_word(word, "pub"),
        [] => false,
    }
}

/// Whether a group is the body of `mod name { … }`.
fn is_inline_module(tokens: &[TokenTree], at: usize) -> bool {
    at >= 2 && word(&tokens[at - 1]).is_some() && is_word(&tokens[at - 2], "mod")
}
