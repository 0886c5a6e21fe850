//! How an image is pulled: by docker, by a cluster, and by a script that asks which one it is.

use super::image::ImageUrl;
use super::settings::pull_secret;
use crate::telemetry::printable::printable;
use crate::timeline::protocol::Build;

pub(super) struct Pull {
    pub(super) image: ImageUrl,
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) secret: Vec<String>,
    pub(super) pod: Vec<String>,
    pub(super) script: Vec<String>,
}

impl Pull {
    /// None: the build has no image.
    pub(super) fn new(build: &Build, service: &str, registry: &str, base: &str) -> Option<Self> {
        let image = build.image.as_deref()?;
        let (namespace, app) = (build.namespace.as_str(), build.app.as_str());
        // Names in a cluster have no underscore (RFC 1123).
        let label = |name: &str| printable(name).replace(['_', '.'], "-");
        let pod = [
            "kubectl apply -f - <<'YAML'".to_owned(),
            "apiVersion: v1".to_owned(),
            "kind: Pod".to_owned(),
            format!("metadata: {{namespace: {namespace}, name: {}-{}}}", label(app), build.commit.short()),
            "spec:".to_owned(),
            "  imagePullSecrets: [{name: buildgrid}]".to_owned(),
            "  containers:".to_owned(),
            format!("  - name: {}", label(service)),
            format!("    image: {}", printable(image)),
            "YAML".to_owned(),
        ];
        let script = [
            "curl -fsS -H \"Authorization: Bearer $BUILDGRID_TOKEN\" \\".to_owned(),
            format!("  {}/api/v1/services/{namespace}/{app}/{} |", printable(base), printable(service)),
            "  jq -r .image".to_owned(),
        ];
        Some(Self {
            image: ImageUrl::new(image),
            namespace: namespace.to_owned(),
            service: printable(service),
            secret: pull_secret(namespace, registry, "<user>"),
            pod: pod.into(),
            script: script.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn commands_name_what_they_pull() {
        let pull = Pull::new(&samples::published(), "web_1", "registry.example.com", "https://b.example.com");
        let pull = pull.unwrap();
        let pod = pull.pod.join("\n");
        assert!(pod.contains("name: shop-9fceb02") && pod.contains("- name: web-1\n"), "{pod}");
        assert!(pod.contains(&format!("image: {}\n", pull.image.whole())), "{pod}");
        let script = pull.script.join("\n");
        assert!(script.contains("https://b.example.com/api/v1/services/acme/shop/web_1 |"), "{script}");
        assert!(Pull::new(&samples::failed(), "web", "r", "b").is_none());
    }
}
