//! The queue against a real RabbitMQ.
