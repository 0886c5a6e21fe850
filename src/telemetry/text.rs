//! The log as text, for a person: time, what is unusual about the level, the build, the message.
//!
//! ```text
//! 21:15:02.123 [b-17] [2/4] RUN make | cc -o shop
//! 21:15:04.456 [b-17] image published  image=acme/shop.storefront:9fceb02 …  elapsed_ms=2333
//! ```

use std::fmt::{self, Write};

use time::OffsetDateTime;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::printable::{printable, with_colours};

/// The target of the lines that builds write.
const BUILD_OUTPUT: &str = "buildgrid::build_output";

/// The id of the build that a span belongs to.
struct BuildName(String);

/// Keeps the build's id with its span, for [`Text`].
pub struct BuildNames;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for BuildNames {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (Some(span), Some(name)) = (context.span(id), fields.build_id) {
            span.extensions_mut().insert(BuildName(name));
        }
    }
}

/// The format.
pub struct Text;

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let build = context.event_scope().and_then(|mut scope| {
            scope.find_map(|span| span.extensions().get::<BuildName>().map(|name| name.0.clone()))
        });
        let paint = |code: &str, text: &str| match out.has_ansi_escapes() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        };
        let clock = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
        let time = OffsetDateTime::now_utc().format(&clock).unwrap_or_default();
        let mut line = paint("2", &time);
        match *event.metadata().level() {
            Level::ERROR => line.push_str(&paint("31", " ERROR")),
            Level::WARN => line.push_str(&paint("33", " WARN")),
            Level::INFO => {}
            Level::DEBUG => line.push_str(&paint("2", " debug")),
            Level::TRACE => line.push_str(&paint("2", " trace")),
        }
        if let Some(build) = build {
            write!(line, " {}", paint("36", &format!("[{build}]")))?;
        }
        if event.metadata().target() == BUILD_OUTPUT {
            if let Some(step) = fields.take("step") {
                write!(line, " {}", paint("2", &printable(&step)))?;
            }
            let text = match out.has_ansi_escapes() {
                true => with_colours(&fields.message),
                false => printable(&fields.message),
            };
            write!(line, " | {text}")?;
        } else {
            write!(line, " {}", printable(&fields.message))?;
            for (name, value) in &fields.others {
                write!(line, "  {}{}", paint("2", &format!("{name}=")), printable(value))?;
            }
        }
        writeln!(out, "{line}")
    }
}

/// An event's fields as text.
#[derive(Default)]
struct Fields {
    message: String,
    build_id: Option<String>,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.others.iter().position(|(other, _)| *other == name)?;
        Some(self.others.remove(at).1)
    }

    fn keep(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            "build_id" => self.build_id = Some(value),
            name => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        // Two blanks stand between fields: a value that has some must not look like another.
        let is_clear = field.name() == "message" || !value.contains("  ");
        self.keep(field, if is_clear { value.to_owned() } else { format!("{value:?}") });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, format!("{value:?}"));
    }
}
