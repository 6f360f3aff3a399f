//! The pauses as a picture: a dot a round, a mark at the median, on a logarithmic scale.

use std::fmt::Write;

use handoff_tests::figures::Spread;

use crate::report::{Row, Setting};
use crate::swap::Mechanism;

/// One panel below the other, one line a mechanism.
pub(crate) fn svg(settings: &[Setting]) -> String {
    let pauses = settings.iter().flat_map(|setting| &setting.rows).flat_map(Row::pauses);
    let Spread { min, max, .. } = Spread::of(pauses);
    let scale = Scale { first: min.max(0.001).log10().floor(), last: max.max(1.0).log10().ceil() };
    let heights = settings.iter().map(|setting| panel_height(setting.rows.len()));
    let height: f64 = heights.sum();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let mut top = 0.0;
    for setting in settings {
        panel(&mut svg, setting, &scale, top).expect("a string takes everything");
        top += panel_height(setting.rows.len());
    }
    svg.push_str("</svg>\n");
    svg
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

fn panel(svg: &mut String, setting: &Setting, scale: &Scale, top: f64) -> std::fmt::Result {
    let bottom = top + HEAD + LINE * setting.rows.len() as f64;
    writeln!(
        svg,
        "<text x=\"10\" y=\"{}\" font-weight=\"bold\">{}: pause in ms</text>",
        top + 20.0,
        setting.name()
    )?;
    for power in scale.powers() {
        let (x, ms) = (scale.x(10_f64.powf(power)), 10_f64.powf(power));
        writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{ms}</text>",
            top + HEAD,
            bottom + 14.0,
        )?;
    }
    for (nth, row) in setting.rows.iter().enumerate() {
        let y = top + HEAD + LINE * (nth as f64 + 0.5);
        let colour = if row.mechanism == Mechanism::Handoff { "#c2410c" } else { "#1d4ed8" };
        let median = Spread::of(row.pauses()).median;
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 10.0,
            y + 4.0,
            row.name
        )?;
        for ms in row.pauses() {
            writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\" \
                 fill-opacity=\"0.5\"/>",
                scale.x(ms)
            )?;
        }
        let x = scale.x(median);
        writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" \
             stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{median:.2}</text>",
            y - 8.0,
            y + 8.0,
            WIDTH - RIGHT + 10.0,
            y + 4.0,
        )?;
    }
    Ok(())
}

fn panel_height(rows: usize) -> f64 {
    HEAD + LINE * rows as f64 + FOOT
}

const WIDTH: f64 = 900.0;
const LEFT: f64 = 220.0;
const RIGHT: f64 = 70.0;
const HEAD: f64 = 32.0;
const LINE: f64 = 22.0;
const FOOT: f64 = 34.0;
