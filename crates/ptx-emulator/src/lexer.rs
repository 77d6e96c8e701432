//! Text to tokens.

/// One token of PTX text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// A name, number, opcode or directive: `%r1`, `0f3F800000`, `ld.global.f32`, `.reg`.
    Word(&'a str),
    /// A quoted text, without its quotes.
    Text(&'a str),
    /// Any other character.
    Mark(char),
}

/// The tokens of a text, each with the number of its line (from 1).
pub(crate) fn tokens(source: &str) -> Vec<(Token<'_>, u32)> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(c) = rest.chars().next() {
        let used = if c == '\n' {
            line += 1;
            1
        } else if c.is_whitespace() || c == '\0' {
            c.len_utf8()
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            let end = rest.find("*/").map_or(rest.len(), |at| at + 2);
            line += rest[..end].matches('\n').count() as u32;
            end
        } else if c == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |at| at + 1);
            found.push((Token::Text(&rest[1..end]), line));
            (end + 1).min(rest.len())
        } else if in_word(c) {
            let end = word_end(rest);
            found.push((Token::Word(&rest[..end]), line));
            end
        } else {
            found.push((Token::Mark(c), line));
            c.len_utf8()
        };
        rest = &rest[used..];
    }
    found
}

fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

/// Where the word at the start of `text` ends. A double colon (`shared::cta`) belongs to it, a single one marks a label.
fn word_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if in_word(bytes[at] as char) {
            at += 1;
        } else if text[at..].starts_with("::") {
            at += 2;
        } else {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::Token::*;
    use super::*;

    #[test]
    fn words_marks_texts_and_lines() {
        let all = tokens("// c\n$L_1: @!%p1 ld.shared::cta.f32 %f1, [%rd2+-4]; /* x\n */ .file 1 \"a b\"");
        let words: Vec<_> = all.iter().map(|(token, _)| *token).collect();
        assert_eq!(words[..5], [Word("$L_1"), Mark(':'), Mark('@'), Mark('!'), Word("%p1")]);
        assert_eq!(words[5], Word("ld.shared::cta.f32"));
        assert_eq!(words[words.len() - 1], Text("a b"));
        assert_eq!((all[0].1, all[all.len() - 1].1), (2, 3));
    }
}
