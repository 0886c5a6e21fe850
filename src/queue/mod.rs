//! The deploy queue: AMQP through lapin.
