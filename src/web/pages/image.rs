//! The parts of an image's URL, which weigh differently: the host least, the name and the commit's first
//! seven digits most.

use super::query::path;
use crate::telemetry::printable::printable;

/// An image's URL, in parts that together are all of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ImageUrl {
    /// Up to and with the first `/`.
    pub(super) host: String,
    /// `acme/shop.storefront`
    pub(super) name: String,
    /// The tag's first seven digits.
    pub(super) short: String,
    /// What follows them.
    pub(super) rest: String,
}

impl ImageUrl {
    pub(super) fn new(url: &str) -> Self {
        let url = printable(url);
        let (host, image) = url.split_at(url.find('/').map_or(0, |slash| slash + 1));
        let (name, tag) = image.rsplit_once(':').unwrap_or((image, ""));
        let (short, rest) = tag.split_at(tag.char_indices().nth(7).map_or(tag.len(), |(at, _)| at));
        Self { host: host.to_owned(), name: name.to_owned(), short: short.to_owned(), rest: rest.to_owned() }
    }

    /// What is copied.
    pub(super) fn whole(&self) -> String {
        let Self { host, name, short, rest } = self;
        format!("{host}{name}:{short}{rest}")
    }

    /// The address of the image's own page.
    pub(super) fn page(&self) -> String {
        let Self { name, short, rest, .. } = self;
        path(&format!("/images/{name}:{short}{rest}"))
    }

    pub(super) fn docker_pull(&self) -> String {
        format!("docker pull {}", self.whole())
    }

    /// `shop.storefront`, where the namespace is known.
    pub(super) fn repository(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }

    /// `shop.storefront:9fceb02`, where the namespace is known.
    pub(super) fn brief(&self) -> String {
        format!("{}:{}", self.repository(), self.short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole() {
        let text =
            "registry.example.com:5000/acme/shop.storefront:9fceb02d0ae598e95dc970b74767f19372d61af8-debug";
        let url = ImageUrl::new(text);
        assert_eq!(url.host, "registry.example.com:5000/");
        assert_eq!(url.name, "acme/shop.storefront");
        assert_eq!(url.short, "9fceb02");
        assert_eq!(url.brief(), "shop.storefront:9fceb02");
        assert_eq!(url.page(), "/images/acme/shop.storefront:9fceb02d0ae598e95dc970b74767f19372d61af8-debug");
        assert_eq!(url.whole(), text);
    }

    #[test]
    fn takes_anything_for_a_url() {
        for odd in ["", "x", "/", "a/b:é", ":", "a:b/c"] {
            let _ = ImageUrl::new(odd).brief();
        }
    }
}
