//! The pauses as a picture: a dot a round, a mark at the median, on a logarithmic scale.

use handoff_svg::{Font, Svg};
use handoff_tests::figures::Spread;

use crate::report::{Row, Setting};
use crate::swap::Mechanism;

/// One panel below the other, one line a mechanism.
pub(crate) fn svg(settings: &[Setting]) -> String {
    let pauses = settings.iter().flat_map(|setting| &setting.rows).flat_map(Row::pauses);
    let Spread { min, max, .. } = Spread::of(pauses);
    let scale = Scale { first: min.max(0.001).log10().floor(), last: max.max(1.0).log10().ceil() };
    let mut svg = Svg::default();
    let height = settings.iter().fold(0.0, |top, setting| panel(&mut svg, setting, &scale, top));
    svg.finish("The pause of a swap, by mechanism", WIDTH, height)
}

/// From one power of ten of a millisecond to another.
struct Scale {
    first: f64,
    last: f64,
}

impl Scale {
    fn x(&self, ms: f64) -> f64 {
        let place = (ms.max(1e-6).log10() - self.first) / (self.last - self.first);
        LEFT + place.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn powers(&self) -> impl Iterator<Item = f64> + '_ {
        (0..=20).map(|nth| self.first + f64::from(nth)).take_while(|power| *power <= self.last)
    }
}

/// Draws a panel; where the next one begins.
fn panel(svg: &mut Svg, setting: &Setting, scale: &Scale, top: f64) -> f64 {
    let (head, bottom) = (top + HEAD, top + HEAD + LINE * setting.rows.len() as f64);
    svg.text((10.0, top + 20.0), TEXT.bold(), &format!("{}: pause in ms", setting.name()));
    for ms in scale.powers().map(|power| 10_f64.powf(power)) {
        let x = scale.x(ms);
        svg.line((x, head), (x, bottom), GRID);
        svg.text((x, bottom + 14.0), TEXT.centred().coloured("#666666"), &ms.to_string());
    }
    for (nth, row) in setting.rows.iter().enumerate() {
        let y = head + LINE * (nth as f64 + 0.5);
        let colour = if row.mechanism == Mechanism::Handoff { "#c2410c" } else { "#1d4ed8" };
        svg.text((LEFT - 10.0, y + 4.0), TEXT.ending(), row.name);
        for ms in row.pauses() {
            let paint = format!(r#"fill="{colour}" fill-opacity="0.5""#);
            svg.circle((scale.x(ms), y), 3.0, &paint);
        }
        let median = Spread::of(row.pauses()).median;
        let x = scale.x(median);
        let stroke = format!(r#"stroke="{colour}" stroke-width="2""#);
        svg.line((x, y - 8.0), (x, y + 8.0), &stroke);
        let place = (WIDTH - RIGHT + 10.0, y + 4.0);
        svg.text(place, TEXT.coloured(colour), &format!("{median:.2}"));
    }
    bottom + FOOT
}

const TEXT: Font = Font::sized(12.0);
const GRID: &str = r##"stroke="#dddddd""##;
const WIDTH: f64 = 900.0;
const LEFT: f64 = 220.0;
const RIGHT: f64 = 70.0;
const HEAD: f64 = 32.0;
const LINE: f64 = 22.0;
const FOOT: f64 = 34.0;
