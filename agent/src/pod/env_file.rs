//! Env files (KEP-3721): `NAME=value` lines that a container of the pod wrote for another one.
//!
//! A line may be empty or begin with `#`; space around a name is no part of it. A value in single quotes is what stands
//! between them, over several lines too; one without is the rest of the line. Nothing is expanded. Not for: reading files.

/// The value of `key`, if the file has it; the last one of several.
///
/// # Errors
/// The number of a line that is none of these.
pub fn value(text: &str, key: &str) -> Result<Option<String>, String> {
    let mut found = None;
    let mut rest = text;
    let mut line = 0;
    while !rest.is_empty() {
        line += 1;
        let (this, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let head = this.trim_start();
        if head.trim_end().is_empty() || head.starts_with('#') {
            rest = after;
            continue;
        }
        let wrong = || format!("invalid environment variable format at line {line}");
        let (name, value) = head.split_once('=').ok_or_else(wrong)?;
        let name = name.trim();
        if name.is_empty() {
            return Err(wrong());
        }
        let (value, after) = match value.trim_start().strip_prefix('\'') {
            None => (value.trim(), after),
            Some(_) => {
                // What was cut off at the end of the line may belong to it.
                let quoted = rest.split_once('\'').map(|(_, quoted)| quoted).ok_or_else(wrong)?;
                let (value, behind) = quoted.split_once('\'').ok_or_else(wrong)?;
                let (tail, after) = behind.split_once('\n').unwrap_or((behind, ""));
                if !tail.trim().is_empty() && !tail.trim_start().starts_with('#') {
                    return Err(wrong());
                }
                line += value.matches('\n').count();
                (value, after)
            }
        };
        if name == key {
            found = Some(value.to_owned());
        }
        rest = after;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_file() {
        let file = "\n# a comment\nPLAIN=one two \n  SPACED =  x=y\nQUOTED='a\n # b='  # why\nPLAIN='last'\r\nEMPTY=\nEND=e";
        let of = |key: &str| value(file, key).unwrap();
        assert_eq!(of("PLAIN").as_deref(), Some("last"));
        assert_eq!(of("SPACED").as_deref(), Some("x=y"));
        assert_eq!(of("QUOTED").as_deref(), Some("a\n # b="));
        assert_eq!(of("EMPTY").as_deref(), Some(""));
        assert_eq!(of("END").as_deref(), Some("e"));
        assert_eq!(of("b"), None);
        assert_eq!(value("", "A"), Ok(None));
    }

    #[test]
    fn lines_that_are_none() {
        for (file, line) in [("A=1\nwrong", 2), ("=1", 1), ("A='1\n", 1), ("A='1' 2", 1), ("A='\n\n'\nx", 4)]
        {
            assert_eq!(value(file, "A"), Err(format!("invalid environment variable format at line {line}")));
        }
    }
}
