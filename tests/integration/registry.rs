//! The registry against raw HTTP, docker and skopeo, by TLS and without, and the same store behind the stock registry.

mod clients;
mod connections;
mod content;
mod crossing;
mod daemon;
mod listings;
mod objects;
mod observed;
mod public;
mod referrers;
mod refusals;
mod sources;
mod stock;
mod tls;
mod wire;
