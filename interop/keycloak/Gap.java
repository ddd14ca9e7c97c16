import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.function.Predicate;

/** The requests that failed: how many, and from the first to the first success after the last. */
record Gap(long failed, Duration duration, boolean recovered) {
    static Gap of(List<Client.Request> requests) {
        return of(requests, request -> true);
    }

    /** The gap in those of the requests that are included. */
    static Gap of(List<Client.Request> requests, Predicate<Client.Request> included) {
        Instant from = null;
        Instant to = null;
        Instant last = null;
        long failed = 0;
        for (Client.Request request : requests) {
            if (!included.test(request)) {
                continue;
            }
            last = request.at();
            if (!request.accepted()) {
                from = from == null ? request.at() : from;
                to = null;
                failed++;
            } else if (from != null && to == null) {
                to = request.at();
            }
        }
        if (failed == 0) {
            return new Gap(0, Duration.ZERO, true);
        }
        return new Gap(failed, Duration.between(from, to == null ? last : to), to != null);
    }

    static Duration since(Instant from) {
        return Duration.between(from, Instant.now());
    }
}
