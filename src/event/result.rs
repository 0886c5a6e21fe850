//! Result events, version 1: what BuildGrid says of a build on the exchange `buildgrid.events`.
