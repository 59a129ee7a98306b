"""Seeds that once failed, and what they brought to light. A seed's history changes with the scenarios: what
must not come back has a test of its own beside the code that was wrong."""

KEPT: dict[int, str] = {
    23: "an estimate divided by the rate of a group of domains that has none",
    98: "the broker's loop span for a whole recovery: next_at lay in the past, and dispatch did nothing",
    259: "a worker came back with another rate, and its bucket waited for a promise for ever",
    538: "the simulator's own: a cancelled timer that had become due in a frozen process rang all the same",
    647: "asking for a worker's limit ended its slow start without telling the balancer",
    733: "a server's rate was raised by one worker's hello, and its other worker slept on",
    963: "messages given back to a server's rate by one worker, and its other worker slept on",
    2654: "a retried campaign's rate waited for a promise that came while it had ended",
    1350: "a campaign was cancelled while its recipients were still coming in",
}
