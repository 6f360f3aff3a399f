//! A panel for each axis, a line for each phase, both scales logarithmic.

use std::fmt::Write;

use crate::report::{Axis, COLUMNS};

pub(crate) fn svg(axes: &[Axis]) -> String {
    let width = PANEL * axes.len() as f64 + LEGEND;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    for (nth, axis) in axes.iter().enumerate() {
        panel(&mut svg, axis, PANEL * nth as f64).expect("a string takes everything");
    }
    for (nth, (column, colour)) in COLUMNS.iter().zip(COLOURS).enumerate() {
        let (x, y) = (width - LEGEND + 10.0, TOP + 20.0 * nth as f64);
        writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{colour}\" \
             stroke-width=\"2\"/>\n<text x=\"{}\" y=\"{}\">{column}</text>",
            x + 20.0,
            x + 26.0,
            y + 4.0
        )
        .expect("a string takes everything");
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, axis: &Axis, left: f64) -> std::fmt::Result {
    let values: Vec<f64> = axis.points.iter().map(|point| (point.value as f64).log10()).collect();
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return Ok(()) };
    let x = |value: f64| {
        let share = if last > first { (value - first) / (last - first) } else { 0.5 };
        left + LEFT + share * (PANEL - LEFT - RIGHT)
    };
    let y = |ms: f64| {
        let share = (ms.max(10_f64.powf(LEAST)).log10() - LEAST) / (MOST - LEAST);
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    };
    writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"24\" font-weight=\"bold\">ms against {}</text>",
        left + LEFT,
        axis.name
    )?;
    for power in LEAST as i32..=MOST as i32 {
        let (ms, right) = (10_f64.powi(power), left + PANEL - RIGHT);
        writeln!(
            svg,
            "<line x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{ms}</text>",
            left + LEFT,
            left + LEFT - 6.0,
            y(ms) + 4.0,
            y = y(ms),
        )?;
    }
    for (point, value) in axis.points.iter().zip(&values) {
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{}</text>",
            x(*value),
            HEIGHT - BOTTOM + 18.0,
            (axis.label)(point.value)
        )?;
    }
    for (nth, colour) in COLOURS.iter().enumerate() {
        let places: Vec<String> = axis
            .points
            .iter()
            .zip(&values)
            .map(|(point, value)| format!("{:.1},{:.1}", x(*value), y(point.medians()[nth])))
            .collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            places.join(" ")
        )?;
    }
    Ok(())
}

const COLOURS: [&str; COLUMNS.len()] =
    ["#94a3b8", "#a3a3a3", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490", "#c2410c"];
/// Powers of ten, of a millisecond.
const LEAST: f64 = -2.0;
const MOST: f64 = 4.0;
const PANEL: f64 = 340.0;
const LEGEND: f64 = 160.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 36.0;
