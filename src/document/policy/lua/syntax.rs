//! The syntax of Lua 5.1: whether a script can be loaded.
//!
//! A walk through the grammar of the manual (section 8) that keeps no tree. The depth is bounded as in Lua itself (200
//! levels), so that no script exhausts the stack; parsers of other crates have no bound. Some faults remain Envoy's to
//! find: `break` outside a loop, `...` outside its function, more than 200 local names.

use std::iter::Peekable;
use std::str::CharIndices;

/// The deepest nesting: Lua's.
const MAX_DEPTH: usize = 200;
const KEYWORDS: [&str; 21] = [
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not", "or",
    "repeat", "return", "then", "true", "until", "while",
];

/// Whether the text is a chunk of Lua. The error says where and why not.
pub(super) fn check(source: &str) -> Result<(), String> {
    let mut parser = Parser {
        lexer: Lexer::new(source),
        token: Token::End,
        line: 1,
        depth: 0,
    };
    parser.advance()?;
    parser.block()?;
    match parser.token {
        Token::End => Ok(()),
        _ => Err(parser.unexpected("a statement")),
    }
}

/// A token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'s> {
    Name(&'s str),
    Keyword(&'s str),
    Symbol(&'s str),
    Number,
    Text,
    End,
}

/// The tokens of a text.
struct Lexer<'s> {
    source: &'s str,
    letters: Peekable<CharIndices<'s>>,
    line: usize,
}

impl<'s> Lexer<'s> {
    fn new(source: &'s str) -> Self {
        Self {
            source,
            letters: source.char_indices().peekable(),
            line: 1,
        }
    }

    /// The rest of the text.
    fn rest(&mut self) -> &'s str {
        let start = self.letters.peek().map_or(self.source.len(), |(start, _)| *start);
        &self.source[start..]
    }

    fn skip(&mut self, bytes: usize) -> &'s str {
        let rest = self.rest();
        let skipped = &rest[..bytes];
        for letter in skipped.chars() {
            self.letters.next();
            self.line += usize::from(letter == '\n');
        }
        skipped
    }

    fn next(&mut self) -> Result<Token<'s>, String> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{b}', '\u{c}']).len();
            self.skip(blank);
            let Some(comment) = self.rest().strip_prefix("--") else {
                break;
            };
            self.skip(2);
            match long_bracket(comment) {
                Some(level) => self.skip_long(level)?,
                None => drop(self.skip(comment.find('\n').unwrap_or(comment.len()))),
            }
        }

        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(Token::End);
        };
        if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            let word = self.skip(end.unwrap_or(rest.len()));
            return Ok(match KEYWORDS.contains(&word) {
                true => Token::Keyword(word),
                false => Token::Name(word),
            });
        }
        let is_point = |letter: &u8| letter.is_ascii_digit();
        if first.is_ascii_digit() || (first == '.' && rest.as_bytes().get(1).is_some_and(is_point)) {
            return self.number();
        }
        if first == '"' || first == '\'' {
            return self.text(first);
        }
        if let Some(level) = long_bracket(rest) {
            self.skip_long(level)?;
            return Ok(Token::Text);
        }
        let symbols = ["...", "..", "==", "~=", "<=", ">="];
        let long = symbols.into_iter().find(|symbol| rest.starts_with(symbol));
        match long {
            Some(symbol) => Ok(Token::Symbol(self.skip(symbol.len()))),
            None if "+-*/%^#<>=(){}[];:,.".contains(first) => Ok(Token::Symbol(self.skip(1))),
            None => Err(format!("line {}: found {first:?}", self.line)),
        }
    }

    fn number(&mut self) -> Result<Token<'s>, String> {
        let rest = self.rest();
        let is_decimal = !rest.starts_with("0x") && !rest.starts_with("0X");
        let bytes = rest.as_bytes();
        let is_part = |at: usize| match bytes[at] {
            b'+' | b'-' => is_decimal && at > 0 && matches!(bytes[at - 1], b'e' | b'E'),
            byte => byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_',
        };
        let end = (0..bytes.len()).find(|at| !is_part(*at)).unwrap_or(bytes.len());
        let text = self.skip(end);
        let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        let is_number = match hexadecimal {
            Some(digits) => !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
            // Names of numbers begin with a letter, so the text is none.
            None => text.parse::<f64>().is_ok(),
        };
        match is_number {
            true => Ok(Token::Number),
            false => Err(format!("line {}: found the number {text:?}", self.line)),
        }
    }

    fn text(&mut self, quote: char) -> Result<Token<'s>, String> {
        let line = self.line;
        let unfinished = || format!("line {line}: found a string without its end");
        self.skip(1);
        loop {
            let (_, letter) = self.letters.next().ok_or_else(unfinished)?;
            match letter {
                '\n' | '\r' => return Err(unfinished()),
                '\\' => {
                    let rest = self.rest();
                    let digits = rest.bytes().take(3).take_while(u8::is_ascii_digit).count();
                    if digits > 0 {
                        let is_byte = rest[..digits].parse::<u8>().is_ok();
                        if !is_byte {
                            return Err(format!("line {line}: found the escape \\{}", &rest[..digits]));
                        }
                        self.skip(digits);
                        continue;
                    }
                    let next = rest.chars().next().ok_or_else(unfinished)?;
                    self.skip(next.len_utf8());
                }
                letter if letter == quote => return Ok(Token::Text),
                _ => {}
            }
        }
    }

    /// A long bracket to its end.
    fn skip_long(&mut self, level: usize) -> Result<(), String> {
        let line = self.line;
        let end = format!("]{}]", "=".repeat(level));
        let rest = self.rest();
        match rest[level + 2..].find(&end) {
            Some(found) => {
                self.skip(level + 2 + found + end.len());
                Ok(())
            }
            None => Err(format!("line {line}: found a long bracket without its end")),
        }
    }
}

/// The level of the long bracket at the start of a text.
fn long_bracket(text: &str) -> Option<usize> {
    let after = text.strip_prefix('[')?;
    let level = after.bytes().take_while(|byte| *byte == b'=').count();
    after[level..].starts_with('[').then_some(level)
}

/// The rules of the grammar, one a function.
struct Parser<'s> {
    lexer: Lexer<'s>,
    /// The next token, and its line.
    token: Token<'s>,
    line: usize,
    depth: usize,
}

type Checked = Result<(), String>;

impl<'s> Parser<'s> {
    fn advance(&mut self) -> Checked {
        self.token = self.lexer.next()?;
        self.line = self.lexer.line;
        Ok(())
    }

    fn unexpected(&self, expected: &str) -> String {
        let found = match self.token {
            Token::Name(text) | Token::Keyword(text) | Token::Symbol(text) => format!("{text:?}"),
            Token::Number => "a number".to_owned(),
            Token::Text => "a string".to_owned(),
            Token::End => "its end".to_owned(),
        };
        format!("line {}: found {found}, expected {expected}", self.line)
    }

    /// Take the token, if it comes next.
    fn take(&mut self, token: Token<'_>) -> Result<bool, String> {
        if self.token != token {
            return Ok(false);
        }
        self.advance()?;
        Ok(true)
    }

    fn symbol(&mut self, text: &str) -> Checked {
        match self.take(Token::Symbol(text))? {
            true => Ok(()),
            false => Err(self.unexpected(&format!("{text:?}"))),
        }
    }

    fn keyword(&mut self, text: &str) -> Checked {
        match self.take(Token::Keyword(text))? {
            true => Ok(()),
            false => Err(self.unexpected(&format!("{text:?}"))),
        }
    }

    fn name(&mut self) -> Checked {
        match self.token {
            Token::Name(_) => self.advance(),
            _ => Err(self.unexpected("a name")),
        }
    }

    /// One level deeper.
    fn deeper(&mut self, rule: impl FnOnce(&mut Self) -> Checked) -> Checked {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("line {}: found more than {MAX_DEPTH} levels", self.line));
        }
        rule(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn ends_block(&self) -> bool {
        matches!(
            self.token,
            Token::End | Token::Keyword("else" | "elseif" | "end" | "until")
        )
    }

    fn block(&mut self) -> Checked {
        self.deeper(|parser| {
            while !parser.ends_block() {
                let is_last = matches!(parser.token, Token::Keyword("return" | "break"));
                parser.statement()?;
                parser.take(Token::Symbol(";"))?;
                if is_last && !parser.ends_block() {
                    return Err(parser.unexpected("the end of the block"));
                }
            }
            Ok(())
        })
    }

    fn block_to(&mut self, end: &str) -> Checked {
        self.block()?;
        self.keyword(end)
    }

    fn statement(&mut self) -> Checked {
        let Token::Keyword(word) = self.token else {
            return self.call_or_assignment();
        };
        self.advance()?;
        match word {
            "do" => self.block_to("end"),
            "while" => {
                self.expression()?;
                self.keyword("do")?;
                self.block_to("end")
            }
            "repeat" => {
                self.block_to("until")?;
                self.expression()
            }
            "if" => self.branches(),
            "for" => self.for_loop(),
            "function" => {
                self.name()?;
                while self.take(Token::Symbol("."))? {
                    self.name()?;
                }
                if self.take(Token::Symbol(":"))? {
                    self.name()?;
                }
                self.function()
            }
            "local" => {
                if self.take(Token::Keyword("function"))? {
                    self.name()?;
                    return self.function();
                }
                self.names()?;
                match self.take(Token::Symbol("="))? {
                    true => self.expressions(),
                    false => Ok(()),
                }
            }
            "return" => match self.ends_block() || self.token == Token::Symbol(";") {
                true => Ok(()),
                false => self.expressions(),
            },
            "break" => Ok(()),
            _ => Err(format!("line {}: found {word:?}, expected a statement", self.line)),
        }
    }

    fn branches(&mut self) -> Checked {
        loop {
            self.expression()?;
            self.keyword("then")?;
            self.block()?;
            if self.take(Token::Keyword("elseif"))? {
                continue;
            }
            if self.take(Token::Keyword("else"))? {
                self.block()?;
            }
            return self.keyword("end");
        }
    }

    fn for_loop(&mut self) -> Checked {
        self.name()?;
        if self.take(Token::Symbol("="))? {
            self.expression()?;
            self.symbol(",")?;
            self.expression()?;
            if self.take(Token::Symbol(","))? {
                self.expression()?;
            }
        } else {
            if self.take(Token::Symbol(","))? {
                self.names()?;
            }
            self.keyword("in")?;
            self.expressions()?;
        }
        self.keyword("do")?;
        self.block_to("end")
    }

    fn names(&mut self) -> Checked {
        self.name()?;
        while self.take(Token::Symbol(","))? {
            self.name()?;
        }
        Ok(())
    }

    fn call_or_assignment(&mut self) -> Checked {
        let mut last = self.suffixed()?;
        if last == Suffixed::Call {
            return Ok(());
        }
        while last == Suffixed::Variable && self.take(Token::Symbol(","))? {
            last = self.suffixed()?;
        }
        if last != Suffixed::Variable {
            return Err(format!(
                "line {}: found a value, expected a variable or a call",
                self.line
            ));
        }
        self.symbol("=")?;
        self.expressions()
    }

    /// A name or an expression in parentheses, and what follows.
    fn suffixed(&mut self) -> Result<Suffixed, String> {
        let mut kind = Suffixed::Variable;
        let mut is_variable = true;
        if self.take(Token::Symbol("("))? {
            self.expression()?;
            self.symbol(")")?;
            is_variable = false;
        } else {
            self.name()?;
        }
        loop {
            match self.token {
                Token::Symbol(".") => {
                    self.advance()?;
                    self.name()?;
                    (kind, is_variable) = (Suffixed::Variable, true);
                }
                Token::Symbol("[") => {
                    self.advance()?;
                    self.expression()?;
                    self.symbol("]")?;
                    (kind, is_variable) = (Suffixed::Variable, true);
                }
                Token::Symbol(":") => {
                    self.advance()?;
                    self.name()?;
                    self.arguments()?;
                    kind = Suffixed::Call;
                }
                Token::Symbol("(" | "{") | Token::Text => {
                    self.arguments()?;
                    kind = Suffixed::Call;
                }
                _ => break,
            }
        }
        match (kind, is_variable) {
            (Suffixed::Variable, false) => Ok(Suffixed::Value),
            _ => Ok(kind),
        }
    }

    fn arguments(&mut self) -> Checked {
        match self.token {
            Token::Text => self.advance(),
            Token::Symbol("{") => self.table(),
            Token::Symbol("(") => {
                self.advance()?;
                if self.take(Token::Symbol(")"))? {
                    return Ok(());
                }
                self.expressions()?;
                self.symbol(")")
            }
            _ => Err(self.unexpected("arguments")),
        }
    }

    fn table(&mut self) -> Checked {
        self.symbol("{")?;
        while !self.take(Token::Symbol("}"))? {
            if self.take(Token::Symbol("["))? {
                self.expression()?;
                self.symbol("]")?;
                self.symbol("=")?;
                self.expression()?;
            } else {
                // `name = value`, or a value that begins with a name.
                let is_name = matches!(self.token, Token::Name(_));
                self.expression()?;
                if is_name && self.take(Token::Symbol("="))? {
                    self.expression()?;
                }
            }
            let is_more = self.take(Token::Symbol(","))? || self.take(Token::Symbol(";"))?;
            if !is_more && self.token != Token::Symbol("}") {
                return Err(self.unexpected("\"}\""));
            }
        }
        Ok(())
    }

    /// The parameters and the body of a function.
    fn function(&mut self) -> Checked {
        self.symbol("(")?;
        if !self.take(Token::Symbol(")"))? {
            loop {
                if self.take(Token::Symbol("..."))? {
                    break;
                }
                self.name()?;
                if !self.take(Token::Symbol(","))? {
                    break;
                }
            }
            self.symbol(")")?;
        }
        self.block_to("end")
    }

    fn expressions(&mut self) -> Checked {
        self.expression()?;
        while self.take(Token::Symbol(","))? {
            self.expression()?;
        }
        Ok(())
    }

    /// Operands with operators between them; their ranks make no difference to the syntax.
    fn expression(&mut self) -> Checked {
        self.deeper(|parser| {
            loop {
                while matches!(parser.token, Token::Keyword("not") | Token::Symbol("-" | "#")) {
                    parser.advance()?;
                }
                parser.operand()?;
                let is_operator = matches!(
                    parser.token,
                    Token::Keyword("and" | "or")
                        | Token::Symbol(
                            "+" | "-" | "*" | "/" | "%" | "^" | ".." | "<" | "<=" | ">" | ">=" | "==" | "~="
                        )
                );
                if !is_operator {
                    return Ok(());
                }
                parser.advance()?;
            }
        })
    }

    fn operand(&mut self) -> Checked {
        match self.token {
            Token::Number | Token::Text | Token::Keyword("nil" | "true" | "false") | Token::Symbol("...") => {
                self.advance()
            }
            Token::Symbol("{") => self.table(),
            Token::Keyword("function") => {
                self.advance()?;
                self.function()
            }
            Token::Name(_) | Token::Symbol("(") => self.suffixed().map(drop),
            _ => Err(self.unexpected("an expression")),
        }
    }
}

/// The kind of a name or expression with its suffixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suffixed {
    /// A value can be assigned to it.
    Variable,
    /// A statement of its own.
    Call,
    /// An expression in parentheses.
    Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_of_lua_are_taken() {
        for source in [
            "",
            "-- a comment",
            "--[==[ long\n]] ]==] local a",
            "function envoy_on_request(handle)\n  handle:headers():add('x-a', [[b]])\nend",
            "local t = {1, 2; a = 'b', [3] = 4, f = function(...) return ... end,}",
            "for i = 1, 10, 2 do if i % 2 == 0 then break elseif i ~= 3 then print(i) else return end end",
            "for k, v in pairs(t) do t[k], t.b.c = v .. 'x' .. 1e-3, -#t ^ 2 end",
            "repeat local a = not (b or c and 0x1F) until f{1} == g'x'.y:z()",
            "a.b:c 'd' { e = 1 } [2] = 3",
            "local function f(a, b, ...) while true do do end end end;",
            "local s = 'a\\\n b\\065\\'' .. \"\\\"\\n\"",
            "(f or g)(1)",
            "return",
            "x = .5 + 3. + 1e10",
        ] {
            assert_eq!(check(source), Ok(()), "{source}");
        }
    }

    #[test]
    fn other_texts_have_a_line_and_a_reason() {
        for (source, reason) in [
            ("function f(\n", "line 2: found its end, expected a name"),
            ("\nlocal 1", "line 2: found a number, expected a name"),
            ("x", "line 1: found its end, expected \"=\""),
            ("f() = 1", "line 1: found \"=\", expected a name"),
            ("(a) = 1", "line 1: found a value, expected a variable or a call"),
            ("return 1 x = 2", "line 1: found \"x\", expected the end of the block"),
            ("if a then", "line 1: found its end, expected \"end\""),
            ("x = 'a", "line 1: found a string without its end"),
            ("x = [[a", "line 1: found a long bracket without its end"),
            ("x = 3x", "line 1: found the number \"3x\""),
            ("x = '\\999'", "line 1: found the escape \\999"),
            ("x = a ! b", "line 1: found '!'"),
            ("x = {1 2}", "line 1: found a number, expected \"}\""),
            ("end", "line 1: found \"end\", expected a statement"),
            ("x = 1 +", "line 1: found its end, expected an expression"),
        ] {
            assert_eq!(check(source).unwrap_err(), reason, "{source}");
        }
    }

    #[test]
    fn the_depth_is_bounded() {
        for (open, close) in [("(", ")"), ("{", "}"), ("f(", ")"), ("function() return ", " end")] {
            let nested = |count: usize| format!("x = {}1{}", open.repeat(count), close.repeat(count));
            assert_eq!(check(&nested(50)), Ok(()));
            assert!(
                check(&nested(20_000))
                    .unwrap_err()
                    .ends_with("found more than 200 levels")
            );
        }
        let blocks = format!("{}{}", "do ".repeat(10_000), "end ".repeat(10_000));
        assert!(check(&blocks).unwrap_err().ends_with("found more than 200 levels"));
        assert_eq!(check(&format!("x = {}1", "- ".repeat(30_000))), Ok(()));
    }
}
