//! The icons, 16 pixels square, drawn with attributes alone: a page has no inline style.
//!
//! They take the colour of the text around them. A part of the class `cut` has the ground's colour, so
//! that it reads as cut out. An icon never stands for a word; the word is beside it, or in the label of
//! its button.

use std::fmt;

use askama::filters::HtmlSafe;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Icon {
    Queued,
    Live,
    Published,
    Reused,
    Failed,
    Infrastructure,
    Retrying,
    Rejected,
    Cancelled,
    Interrupted,
    Done,
    Cached,
    Copy,
    Chevron,
    Caret,
    Up,
    Close,
    Search,
    Key,
    Layers,
    Wrap,
    Download,
    Logo,
}

impl Icon {
    fn shapes(self) -> &'static str {
        match self {
            Self::Queued => r#"<circle cx="8" cy="8" r="6" stroke-dasharray="2.7 2"/>"#,
            Self::Live => {
                r#"<circle cx="8" cy="8" r="6" opacity=".35"/><path class="turn" d="M8 2a6 6 0 0 1 6 6"/><circle cx="8" cy="8" r="2" fill="currentColor" stroke="none"/>"#
            }
            Self::Published => {
                r#"<circle cx="8" cy="8" r="6.75" fill="currentColor" stroke="none"/><path class="cut" d="m5 8.2 2.1 2.1L11 6.2"/>"#
            }
            Self::Reused => r#"<circle cx="8" cy="8" r="6"/><path d="m5.2 8.2 2 2 3.6-3.9"/>"#,
            Self::Failed => {
                r#"<path d="M5.2 1.2h5.6l4 4v5.6l-4 4H5.2l-4-4V5.2z" fill="currentColor" stroke="none"/><path class="cut" d="m5.8 5.8 4.4 4.4m0-4.4-4.4 4.4"/>"#
            }
            Self::Infrastructure => {
                r#"<path d="M8 1.8 15 14H1z" fill="currentColor" stroke-width="1.4"/><path class="cut" d="M8 6v3.6M8 11.6v.2"/>"#
            }
            Self::Retrying => r#"<path d="M13.6 8a5.6 5.6 0 1 1-1.8-4.1"/><path d="M12.6 1.4v3h-3"/>"#,
            Self::Rejected => {
                r#"<rect x="1.75" y="1.75" width="12.5" height="12.5" rx="2" fill="currentColor" stroke="none"/><path class="cut" d="M5 8h6"/>"#
            }
            Self::Cancelled => r#"<circle cx="8" cy="8" r="6"/><path d="m3.9 12.1 8.2-8.2"/>"#,
            Self::Interrupted => {
                r#"<circle cx="8" cy="8" r="6" stroke-dasharray="2.7 2"/><path d="M8 4.8V8l2 1.6"/>"#
            }
            Self::Done => r#"<path d="m2.8 8.6 3.3 3.3 7-7.6"/>"#,
            Self::Cached => r#"<rect x="5" y="5" width="6" height="6" rx="1"/>"#,
            Self::Copy => {
                r#"<rect x="5.75" y="5.75" width="8" height="8" rx="1.5"/><path d="M10.2 3.6v-.1a1.5 1.5 0 0 0-1.5-1.5H3.8A1.5 1.5 0 0 0 2.3 3.5v4.9a1.5 1.5 0 0 0 1.5 1.5"/>"#
            }
            Self::Chevron => r#"<path d="m6 3.8 4.2 4.2L6 12.2"/>"#,
            Self::Caret => r#"<path d="m3.8 6 4.2 4.2L12.2 6"/>"#,
            Self::Up => r#"<path d="M3.8 10 8 5.8 12.2 10"/>"#,
            Self::Wrap => {
                r#"<path d="M2 3.5h12M2 8h9.6a2.2 2.2 0 0 1 0 4.5H8.5m1.8-1.9-1.8 1.9 1.8 1.9M2 12.5h3"/>"#
            }
            Self::Download => r#"<path d="M8 2v8m-3.4-3L8 10.4 11.4 7M2.5 13.5h11"/>"#,
            Self::Close => r#"<path d="m4 4 8 8m0-8-8 8"/>"#,
            Self::Search => r#"<circle cx="7" cy="7" r="4.6"/><path d="m10.6 10.6 3.4 3.4"/>"#,
            Self::Key => {
                r#"<circle cx="4.6" cy="11.4" r="2.9"/><path d="m6.8 9.2 6.7-6.7M10.6 5.4l2.2 2.2"/>"#
            }
            Self::Layers => {
                r#"<path d="M8 1.8 14.2 5 8 8.2 1.8 5zM1.8 8 8 11.2 14.2 8M1.8 11 8 14.2 14.2 11"/>"#
            }
            Self::Logo => {
                r#"<g fill="currentColor" stroke="none"><rect width="7" height="7" rx="1.8"/><rect y="9" width="7" height="7" rx="1.8"/><rect x="9" y="9" width="7" height="7" rx="1.8"/></g><rect class="live" x="9.8" y=".8" width="5.4" height="5.4" rx="1.2"/>"#
            }
        }
    }
}

impl fmt::Display for Icon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"<svg viewBox="0 0 16 16" width="16" height="16" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">"#)?;
        f.write_str(self.shapes())?;
        f.write_str("</svg>")
    }
}

/// Every word of it stands in this file.
impl HtmlSafe for Icon {}
