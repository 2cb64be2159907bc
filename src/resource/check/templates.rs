//! URI templates for matching and rewriting, as Envoy 1.40 reads them (docs/refused-by-envoy.md NR-49, NR-50).
//!
//! A segment for matching is `*`, `**`, a literal, or a variable with a literal before or after it: `{name}`,
//! `{name=*}`, `{name=a/**}`. After `**`, in a variable or outside, neither `*` nor a variable without a pattern may
//! follow.

use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;

use crate::document::Rejection;
use crate::document::sentence::quote;
use crate::resource::place::Place;

/// Most variables of a template.
const MAX_VARIABLES: usize = 5;
/// Longest name of a variable.
const MAX_NAME: usize = 16;

/// Check a template for matching.
pub(super) fn matching(config: &UriTemplateMatchConfig, at: &Place) -> Result<(), Rejection> {
    let template = &config.path_template;
    let read = Reader::default().read(template);
    read.map(|_| ()).map_err(|what| {
        let reason = format!("found the template {}, expected {what}", quote(template));
        at.field("path_template").reject(reason)
    })
}

/// Check a template for rewriting.
pub(super) fn rewriting(config: &UriTemplateRewriteConfig, at: &Place) -> Result<(), Rejection> {
    let template = &config.path_template_rewrite;
    variables_to_rewrite(template).map(|_| ()).map_err(|what| {
        let reason = format!("found the template {}, expected {what}", quote(template));
        at.field("path_template_rewrite").reject(reason)
    })
}

/// A variable of the rewriting template that the matching one lacks.
pub(super) fn missing_variable<'a>(rewrite: &'a str, matched: &str) -> Option<&'a str> {
    let known = Reader::default().read(matched).ok()?;
    let used = variables_to_rewrite(rewrite).ok()?;
    used.into_iter().find(|name| !known.contains(name))
}

fn variables_to_rewrite(template: &str) -> Result<Vec<&str>, &'static str> {
    if !template.starts_with('/') || template.contains("//") {
        return Err("a path that starts with a slash and has no empty segment");
    }
    let mut names = Vec::new();
    let mut rest = template;
    while let Some((literal, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("\"}\" after each \"{\"")?;
        check_literal(literal.bytes().filter(|byte| *byte != b'/'))?;
        check_name(name)?;
        names.push(name);
        rest = after;
    }
    check_literal(rest.bytes().filter(|byte| *byte != b'/'))?;
    Ok(names)
}

/// The parts of a template that was read for matching.
#[derive(Default)]
struct Reader<'a> {
    names: Vec<&'a str>,
    after_rest: bool,
}

impl<'a> Reader<'a> {
    /// The names of the variables. The error says what is expected.
    fn read(mut self, template: &'a str) -> Result<Vec<&'a str>, &'static str> {
        let mut rest = template;
        while !rest.is_empty() {
            rest = rest.strip_prefix('/').ok_or("a slash before each segment")?;
            if rest.is_empty() {
                break;
            }
            rest = self.segment(rest)?;
        }
        match template.is_empty() {
            true => Err("a path that starts with a slash"),
            false => Ok(self.names),
        }
    }

    /// Read a segment; a variable at its beginning may have slashes. The rest is left.
    fn segment(&mut self, text: &'a str) -> Result<&'a str, &'static str> {
        let end = text.find('/').unwrap_or(text.len());
        let (before, from) = if text.starts_with('{') {
            ("", text)
        } else {
            let segment = &text[..end];
            if segment == "*" || segment == "**" {
                self.operator(segment)?;
                return Ok(&text[end..]);
            }
            match segment
                .find('{')
                .filter(|_| !segment.starts_with('*') && segment.contains('}'))
            {
                Some(start) => (&text[..start], &text[start..]),
                None => (segment, &text[end..]),
            }
        };

        check_literal(before.bytes())?;
        let Some(variable) = from.strip_prefix('{') else {
            return match before {
                "" => Err("no empty segment"),
                _ => Ok(from),
            };
        };

        let (inner, after) = variable.split_once('}').ok_or("\"}\" after each \"{\"")?;
        self.variable(inner)?;
        let end = after.find('/').unwrap_or(after.len());
        check_literal(after[..end].bytes())?;
        Ok(&after[end..])
    }

    fn variable(&mut self, inner: &'a str) -> Result<(), &'static str> {
        let (name, pattern) = match inner.split_once('=') {
            Some((name, pattern)) => (name, Some(pattern)),
            None => (inner, None),
        };
        check_name(name)?;
        if self.names.contains(&name) {
            return Err("each variable once");
        }
        if self.names.len() == MAX_VARIABLES {
            return Err("at most 5 variables");
        }
        self.names.push(name);
        for part in pattern.unwrap_or("*").split('/') {
            match part {
                "" => return Err("no empty segment in a variable"),
                "*" | "**" => self.operator(part)?,
                part if part.starts_with('*') => return Err("nothing after \"*\" and \"**\" in a variable"),
                part => check_literal(part.bytes())?,
            }
        }

        Ok(())
    }

    fn operator(&mut self, operator: &str) -> Result<(), &'static str> {
        if self.after_rest {
            return Err("neither \"*\" nor a variable after \"**\"");
        }
        self.after_rest = operator == "**";
        Ok(())
    }
}

fn check_literal(mut bytes: impl Iterator<Item = u8>) -> Result<(), &'static str> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=*".contains(&byte);
    match bytes.all(known) {
        true => Ok(()),
        false => Err("no other characters outside of variables than letters, digits and -._~%!$&'()+,;:@=*"),
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let good = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.len() <= MAX_NAME;
    match good {
        true => Ok(()),
        false => Err("names of variables of 1 to 16 letters, digits and _, first a letter"),
    }
}
