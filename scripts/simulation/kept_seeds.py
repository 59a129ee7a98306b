"""Seeds that once failed, and what they brought to light. A seed's history changes with the scenarios: what
must not come back has a test of its own beside the code that was wrong."""

KEPT: dict[int, str] = {
    98: "the broker's loop span for a whole recovery: next_at lay in the past, and dispatch did nothing",
    259: "a worker came back with another rate, and its bucket waited for a promise for ever",
    647: "asking for a worker's limit ended its slow start without telling the balancer",
    1350: "a campaign was cancelled while its recipients were still coming in",
}
