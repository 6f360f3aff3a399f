//! Writes SVG 1.1: shapes and texts, and measures the width of a text. The program's timeline and
//! the plots of the benches are drawn with it.
//!
//! Lengths are in pixels. `paint` and `stroke` are SVG attributes that no function here escapes:
//! they have to come from the program. Texts are escaped, and may come from anybody.

use std::fmt::Write as _;

/// The shapes and texts that were drawn so far.
#[derive(Debug, Default)]
pub struct Svg(String);

/// The style of a text. Its width is an upper bound: the reader's font is not known.
#[derive(Debug, Clone, Copy)]
pub struct Font {
    size: f64,
    is_bold: bool,
    anchor: &'static str,
    colour: &'static str,
}

impl Svg {
    /// A rectangle from its upper left corner.
    pub fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), paint: &str) {
        let (width, height) = (width.max(0.0), height.max(0.0));
        let _ = writeln!(
            self.0,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" {paint}/>"#
        );
    }

    /// A line from one point to another.
    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), stroke: &str) {
        let _ = writeln!(
            self.0,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" {stroke}/>"#
        );
    }

    /// A circle around a point.
    pub fn circle(&mut self, (x, y): (f64, f64), radius: f64, paint: &str) {
        let _ = writeln!(self.0, r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius:.1}" {paint}/>"#);
    }

    /// A closed line through points.
    pub fn polygon(&mut self, points: &[(f64, f64)], paint: &str) {
        let _ = writeln!(self.0, r#"<polygon points="{}" {paint}/>"#, listed(points));
    }

    /// An open line through points.
    pub fn polyline(&mut self, points: &[(f64, f64)], stroke: &str) {
        let points = listed(points);
        let _ = writeln!(self.0, r#"<polyline points="{points}" fill="none" {stroke}/>"#);
    }

    /// A text on a line; the font says whether the place is its start, middle or end.
    pub fn text(&mut self, (x, y): (f64, f64), font: Font, text: &str) {
        let Font { size, is_bold, anchor, colour } = font;
        let weight = if is_bold { r#" font-weight="bold""# } else { "" };
        let text = escaped(text);
        let _ = writeln!(
            self.0,
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}"{weight} text-anchor="{anchor}" fill="{colour}">{text}</text>"#
        );
    }

    /// Shows a text while a pointer rests on anything that `draw` draws.
    pub fn tooltip(&mut self, tooltip: &str, draw: impl FnOnce(&mut Self)) {
        let _ = writeln!(self.0, "<g><title>{}</title>", escaped(tooltip));
        draw(self);
        self.0.push_str("</g>\n");
    }

    /// The whole document, on white, with a title of its own.
    #[must_use]
    pub fn finish(self, title: &str, width: f64, height: f64) -> String {
        let (title, body) = (escaped(title), self.0);
        format!(
            r##"<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" version="1.1" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" font-family="Helvetica, Arial, sans-serif">
<title>{title}</title>
<rect x="0" y="0" width="{width:.0}" height="{height:.0}" fill="#ffffff"/>
{body}</svg>
"##
        )
    }
}

impl Font {
    /// Black, and its place is its beginning.
    #[must_use]
    pub const fn sized(size: f64) -> Self {
        Self { size, is_bold: false, anchor: "start", colour: "#000000" }
    }

    /// As heavy as a title.
    #[must_use]
    pub const fn bold(self) -> Self {
        Self { is_bold: true, ..self }
    }

    /// The place of a text is its middle.
    #[must_use]
    pub const fn centred(self) -> Self {
        Self { anchor: "middle", ..self }
    }

    /// The place of a text is its end.
    #[must_use]
    pub const fn ending(self) -> Self {
        Self { anchor: "end", ..self }
    }

    /// In a colour as SVG has it.
    #[must_use]
    pub const fn coloured(self, colour: &'static str) -> Self {
        Self { colour, ..self }
    }

    /// An upper bound of the width of a text.
    #[must_use]
    pub fn width(self, text: &str) -> f64 {
        text.chars().map(|c| self.advance(c)).sum()
    }

    /// The left and right ends of a text at the place `x`.
    #[must_use]
    pub fn extent(self, x: f64, text: &str) -> (f64, f64) {
        let width = self.width(text);
        let from = match self.anchor {
            "start" => x,
            "middle" => x - width / 2.0,
            _ => x - width,
        };
        (from, from + width)
    }

    /// The text, cut at its end where it is too long.
    #[must_use]
    pub fn fit(self, text: &str, room: f64) -> String {
        if self.width(text) <= room {
            return text.into();
        }
        format!("{}…", self.head(text, room - self.advance('…')))
    }

    /// The text, cut at its beginning where it is too long: the end of a path matters.
    #[must_use]
    pub fn fit_end(self, text: &str, room: f64) -> String {
        if self.width(text) <= room {
            return text.into();
        }
        let backwards: String = text.chars().rev().collect();
        let end = self.head(&backwards, room - self.advance('…'));
        format!("…{}", end.chars().rev().collect::<String>())
    }

    /// The text in at most `lines` lines, broken between words where that is possible.
    #[must_use]
    pub fn wrap(self, text: &str, room: f64, lines: usize) -> Vec<String> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut rest = text.as_str();
        let mut wrapped = Vec::new();
        while !rest.is_empty() && wrapped.len() < lines {
            if wrapped.len() + 1 == lines || self.width(rest) <= room {
                wrapped.push(self.fit(rest, room));
                break;
            }
            let head = self.head(rest, room);
            let head = head.rfind(' ').map_or(head, |space| &head[..space]);
            if head.is_empty() {
                break;
            }
            wrapped.push(head.into());
            rest = rest[head.len()..].trim_start();
        }
        wrapped
    }

    fn head(self, text: &str, room: f64) -> &str {
        let mut width = 0.0;
        let end = text.char_indices().find(|(_, c)| {
            width += self.advance(*c);
            width > room
        });
        end.map_or(text, |(at, _)| &text[..at])
    }

    /// The widest of the usual fonts is DejaVu Sans.
    fn advance(self, c: char) -> f64 {
        let em = match c {
            ' ' | '\'' | ',' | '-' | '.' | '/' | ':' | ';' | 'I' | 'J' | 'f' | 'i' | 'j' | 'l'
            | '|' => 0.37,
            '!' | '(' | ')' | '[' | ']' | 'r' | 't' => 0.42,
            'c' | 'k' | 's' | 'v' | 'x' | 'y' | 'z' | '_' | '"' => 0.6,
            'a'..='l' | 'n'..='v' | '0'..='9' | 'µ' => 0.64,
            'A' | 'B' | 'C' | 'E' | 'F' | 'K' | 'L' | 'P' | 'R' | 'S' | 'T' | 'V' | 'X' | 'Y'
            | 'Z' => 0.7,
            'D' | 'G' | 'H' | 'N' | 'O' | 'Q' | 'U' | '&' => 0.79,
            '\0'..='\u{2e7f}' => 1.03,
            _ => 1.25,
        };
        em * self.size * if self.is_bold { 1.18 } else { 1.0 }
    }
}

fn listed(points: &[(f64, f64)]) -> String {
    let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    points.join(" ")
}

/// Any text, such as a path or a cause, for XML. XML cannot write most control characters, and
/// characters that turn the direction of writing would disguise a text.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => {
                escaped.push('\u{fffd}');
            }
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_what_was_drawn_and_no_text_breaks_out_of_it() {
        let mut svg = Svg::default();
        svg.tooltip("<a> & 'b'\0", |svg| svg.circle((1.0, 2.0), 3.0, r##"fill="#00ff00""##));
        svg.polyline(&[(0.0, 1.0), (2.0, 3.25)], r##"stroke="#00ff00""##);
        svg.text((4.0, 5.0), Font::sized(12.0).ending().coloured("#666666"), "\"</text>");
        assert_eq!(
            svg.finish("1 < 2", 20.0, 10.0),
            r##"<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" version="1.1" width="20" height="10" viewBox="0 0 20 10" font-family="Helvetica, Arial, sans-serif">
<title>1 &lt; 2</title>
<rect x="0" y="0" width="20" height="10" fill="#ffffff"/>
<g><title>&lt;a&gt; &amp; &apos;b&apos;�</title>
<circle cx="1.0" cy="2.0" r="3.0" fill="#00ff00"/>
</g>
<polyline points="0.0,1.0 2.0,3.2" fill="none" stroke="#00ff00"/>
<text x="4.0" y="5.0" font-size="12" text-anchor="end" fill="#666666">&quot;&lt;/text&gt;</text>
</svg>
"##
        );
    }

    /// The widths are measured in DejaVu Sans, in em.
    #[test]
    fn a_text_is_never_wider_than_is_thought() {
        let plain = Font::sized(1.0);
        for (text, is, is_bold) in [
            ("takes the lock, opens, verifies", 14.966, 17.005),
            ("ResumeAfterAbort", 9.243, 10.482),
            ("clients wait: nobody serves", 13.653, 15.467),
        ] {
            assert!((is..is * 1.15).contains(&plain.width(text)), "{text}: {}", plain.width(text));
            let bold = plain.bold().width(text);
            assert!((is_bold..is_bold * 1.15).contains(&bold), "{text}: {bold}");
        }
        assert_eq!(plain.fit_end("/usr/lib/kvd", 3.0), "…kvd");
        assert_eq!(plain.wrap("aa bb cc dd", 3.4, 3), ["aa bb", "cc dd"]);
        assert_eq!(plain.wrap("aaaaaaaa", 2.0, 2), ["aaa", "a…"]);
    }
}
