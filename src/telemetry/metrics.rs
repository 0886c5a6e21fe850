//! Metrics in Prometheus' text format. Never a label per commit or build: their number is bounded.

use std::sync::OnceLock;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of the stage times, in seconds: from a cached build to the longest.
const STAGE_SECONDS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];

/// Upper bounds of the time an event waited in the queue, in seconds; AMQP tells whole seconds.
const WAIT_SECONDS: &[f64] = &[1.0, 2.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Starts collecting, once for the whole program, and gives what renders the numbers.
pub fn recorder() -> anyhow::Result<PrometheusHandle> {
    if let Some(handle) = RECORDER.get() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("buildgrid_stage_seconds".to_owned()), STAGE_SECONDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(
                Matcher::Full("buildgrid_queue_wait_seconds".to_owned()),
                WAIT_SECONDS,
            )
        })
        .context("set the buckets of the metrics")?
        .build_recorder();
    let handle = recorder.handle();
    // Another thread may have been faster; then its recorder is the one that collects.
    if metrics::set_global_recorder(recorder).is_ok() {
        describe();
        let _ = RECORDER.set(handle);
    }
    RECORDER.get().cloned().context("another recorder collects the metrics of this program")
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!("buildgrid_claims_total", "Claims that the timeline service has answered, by answer");
    describe_counter!("buildgrid_builds_total", "Attempts that were settled, by outcome and kind of failure");
    describe_histogram!("buildgrid_stage_seconds", Unit::Seconds, "Time in each stage of a build");
    describe_histogram!("buildgrid_queue_wait_seconds", Unit::Seconds, "Time an event waited for a slot");
    describe_gauge!("buildgrid_slots_busy", "Slots that are building");
    describe_gauge!(
        "buildgrid_deliveries_attached",
        "Deliveries that wait, outside the slots, for a build that runs here already"
    );
    describe_gauge!("buildgrid_slots_total", "Slots of this worker");
    describe_counter!(
        "buildgrid_published_bytes_total",
        Unit::Bytes,
        "Layer bytes of published images: stored by the build, or reused from the store"
    );
    describe_counter!("buildgrid_log_entries_total", "Log entries written");
    describe_counter!("buildgrid_log_entries_missing_total", "Lines of output for which a log had no room");
    describe_gauge!(
        "buildgrid_log_lag_seconds",
        Unit::Seconds,
        "Age of the oldest log entry that the timeline service does not have"
    );
    describe_counter!("buildgrid_registry_requests_total", "Requests to the registry, by route and status");
    describe_counter!("buildgrid_timeline_requests_total", "Requests to the timeline, by route and status");
    describe_counter!("buildgrid_timeline_entries_total", "Log entries that were appended to builds");
    describe_gauge!(
        "buildgrid_disk_free_bytes",
        Unit::Bytes,
        "Free on the file systems of worker.data_dir (data), store.path or store.spool (store) and the engine's data (engine)"
    );
    describe_gauge!("buildgrid_store_bytes", Unit::Bytes, "Size of all blobs in the store, counted hourly");
    describe_gauge!(
        "buildgrid_tls_certificate_end_seconds",
        Unit::Seconds,
        "When the certificate of registry or timeline ends, or one that leads to its authority, in seconds since 1970"
    );
    describe_gauge!(
        "buildgrid_tls_files_usable",
        "1 while the certificate of registry or timeline is the one in its files, 0 while those cannot be used"
    );
    describe_gauge!("buildgrid_connections", "Connections that registry or timeline serve at this time");
    describe_gauge!("buildgrid_connections_waiting", "Connections that wait until they may be served");
    describe_counter!(
        "buildgrid_connections_refused_total",
        "Connections that were closed since as many of their source waited as may"
    );
    describe_counter!(
        "buildgrid_connections_evicted_total",
        "Idle connections that were closed to make room for others"
    );
    describe_gauge!("buildgrid_broker_connected", "1 while events are consumed, 0 otherwise");
}
