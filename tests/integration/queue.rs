//! The queue: one contract for both, and what each has of its own. What is RabbitMQ's runs against a real
//! one, every test in a virtual host of its own.

mod commands;
mod contract;
mod embedded;
mod faults;
mod letters;
mod topology;
mod world;

use buildgrid::event::deploy::Identity;
use buildgrid::event::result::{ResultEvent, State};
use buildgrid::queue::Queue;

/// Publishes a deploy event of acme/shop.
async fn deploy(queue: &Queue, body: &str) {
    let (namespace, app) = ("acme".parse().unwrap(), "shop".parse().unwrap());
    queue.publish_deploy(&namespace, &app, body.as_bytes().to_vec()).await.unwrap();
}

fn result(id: &str, state: State) -> ResultEvent {
    let (namespace, app) = ("acme".parse().unwrap(), "shop".parse().unwrap());
    let identity = Identity { id: id.parse().unwrap(), namespace, app };
    ResultEvent { state, finished_at: None, ..ResultEvent::rejected(identity, 1, "", "worker-1") }
}
