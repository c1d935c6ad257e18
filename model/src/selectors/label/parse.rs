//! The text form of label selectors; grammar and error texts of upstream's lexer and parser.

use super::{Operator, Requirement, SelectorError};

/// Parses the requirements in the order of the text.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let tokens = scan(text)?;
    Parser { tokens: &tokens, at: 0 }.requirements().map_err(|problem| SelectorError(problem.to_string()))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
}

const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn scan(text: &str) -> Result<Vec<Token>, SelectorError> {
    let special = |c: char| "=!(),><".contains(c);
    let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let (mut tokens, mut rest) = (Vec::new(), text);
    while let Some(c) = rest.chars().next() {
        if blank(c) {
            rest = rest.trim_start_matches(blank);
        } else if special(c) {
            let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
            let symbol = symbol.ok_or_else(|| SelectorError(format!("found '{c}'")))?;
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let end = rest.find(|c| special(c) || blank(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    Ok(tokens)
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<&'a Token> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                None => return Ok(requirements),
                Some(Token::Word(_) | Token::Symbol("!")) => {}
                other => return Err(found(other, "expected: !, identifier, or 'end of string'")),
            }
            let requirement = self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
            requirements.push(requirement);
            match self.next() {
                None => return Ok(requirements),
                Some(Token::Symbol(",")) => match self.peek() {
                    Some(Token::Word(_) | Token::Symbol("!")) => {}
                    other => return Err(found(other, "expected: identifier after ','")),
                },
                other => return Err(found(other, "expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek() == Some(&Token::Symbol("!"));
        if absent {
            self.next();
        }
        let key = match self.next() {
            Some(Token::Word(key)) => key,
            other => return Err(found(other, "expected: identifier")),
        };
        let alone = matches!(self.peek(), None | Some(Token::Symbol(",")));
        let (operator, values) = match (absent, alone) {
            (true, _) => (Operator::DoesNotExist, Vec::new()),
            (false, true) => (Operator::Exists, Vec::new()),
            (false, false) => {
                let operator = self.operator()?;
                let set = matches!(operator, Operator::In | Operator::NotIn);
                (operator, if set { self.values()? } else { vec![self.value()?] })
            }
        };
        Requirement::new(key, operator, values).map_err(|e| e.to_string())
    }

    fn operator(&mut self) -> Result<Operator, String> {
        Ok(match self.next() {
            Some(Token::Symbol("=" | "==")) => Operator::Equals,
            Some(Token::Symbol("!=")) => Operator::NotEquals,
            Some(Token::Symbol(">")) => Operator::GreaterThan,
            Some(Token::Symbol("<")) => Operator::LessThan,
            Some(Token::Word(word)) if word == "in" => Operator::In,
            Some(Token::Word(word)) if word == "notin" => Operator::NotIn,
            other => return Err(found(other, "expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    fn value(&mut self) -> Result<String, String> {
        if matches!(self.peek(), None | Some(Token::Symbol(","))) {
            return Ok(String::new());
        }
        match self.next() {
            Some(Token::Word(word)) => Ok(word.clone()),
            other => Err(found(other, "expected: identifier")),
        }
    }

    /// `(a,b)`; an empty place between commas is the empty value.
    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Some(Token::Symbol("(")) => {}
            other => return Err(found(other, "expected: '('")),
        }
        if self.peek() == Some(&Token::Symbol(")")) {
            self.next();
            return Ok(Vec::new());
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                Some(Token::Word(word)) => {
                    values.push(word.clone());
                    self.next();
                }
                Some(Token::Symbol("," | ")")) => values.push(String::new()),
                other => return Err(found(other, "expected: ',', ')' or identifier")),
            }
            match self.next() {
                Some(Token::Symbol(",")) => {}
                Some(Token::Symbol(")")) => return Ok(values),
                other => return Err(found(other, "expected: ',' or ')'")),
            }
        }
    }
}

fn found(token: Option<&Token>, expected: &str) -> String {
    let text = match token {
        None => "",
        Some(Token::Word(word)) => word,
        Some(Token::Symbol(symbol)) => symbol,
    };
    format!("found '{text}', {expected}")
}

#[cfg(test)]
mod tests {
    use crate::selectors::LabelSelector;
    use expect_test::{Expect, expect};

    fn check(text: &str, expected: Expect) {
        let parsed = LabelSelector::parse(text);
        expected.assert_eq(&parsed.map_or_else(|e| format!("error: {e}"), |s| s.to_string()));
    }

    #[test]
    fn all_forms_are_read_and_sorted_by_key() {
        check("", expect![""]);
        check(" x = a , y==b,z!=c", expect!["x=a,y=b,z!=c"]);
        check("z in (b,a, ,c),!y,x", expect!["x,!y,z in (,a,b,c)"]);
        check(
            "x in (foo,,baz),y notin ()",
            expect![[
                r#"error: unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"#
            ]],
        );
        check("in in (in,notin)", expect!["in in (in,notin)"]);
        check("a=,b", expect!["a=,b"]);
        check("x>3,y<4", expect!["x>3,y<4"]);
    }

    #[test]
    fn errors_have_upstreams_wording() {
        check(
            "x=a||y=b",
            expect![[
                r#"error: unable to parse requirement: values[0][x]: Invalid value: "a||y": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"#
            ]],
        );
        check("x,", expect!["error: found '', expected: identifier after ','"]);
        check(",x", expect!["error: found ',', expected: !, identifier, or 'end of string'"]);
        check(
            "x y",
            expect!["error: unable to parse requirement: found 'y', expected: in, notin, =, ==, !=, gt, lt"],
        );
        check("x in a", expect!["error: unable to parse requirement: found 'a', expected: '('"]);
        check("x in (a", expect!["error: unable to parse requirement: found '', expected: ',' or ')'"]);
        check("!", expect!["error: unable to parse requirement: found '', expected: identifier"]);
        check(
            "x>a",
            expect![[
                r#"error: unable to parse requirement: values: Invalid value: ["a"]: for 'Gt', 'Lt' operators, the value must be an integer"#
            ]],
        );
        check("x = a b", expect!["error: found 'b', expected: ',' or 'end of string'"]);
    }
}
