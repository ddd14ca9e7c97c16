import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What the scenarios found: checks that failed, and figures. */
final class Report {
    private final List<Scenario> scenarios = new ArrayList<>();

    /** The steps of a scenario. */
    interface Steps {
        void run(Scenario scenario) throws Exception;
    }

    /** One line of the table. */
    static final class Scenario {
        final String name;
        private final List<String> failures = new ArrayList<>();
        private final Map<String, String> figures = new LinkedHashMap<>();
        private boolean skipped;
        private long seconds;

        private Scenario(String name) {
            this.name = name;
        }

        /** Fails the scenario, and goes on, unless {@code holds}. */
        void check(String what, boolean holds) {
            if (!holds) {
                failures.add(what);
            }
        }

        /** Checks that a token request was accepted. */
        void accepted(String what, Keycloak.Answer answer) {
            check(what + " is accepted: " + answer.told(), answer.accepted());
        }

        /** Checks that a token request was refused for its client authentication. */
        void refused(String what, Keycloak.Answer answer) {
            check(what + " is refused: " + answer.told(),
                    answer.status() == 400 || answer.status() == 401);
        }

        void figure(String name, Object value) {
            figures.put(name, value.toString());
        }

        void figure(String name, Duration value) {
            figures.put(name, String.format("%.1f s", value.toMillis() / 1000.0));
        }

        private String result() {
            return skipped ? "skipped" : failures.isEmpty() ? "passed" : "FAILED";
        }
    }

    /** Runs one scenario; an exception fails it. */
    void run(String name, Steps steps) {
        Scenario scenario = add(name);
        Instant from = Instant.now();
        try {
            steps.run(scenario);
        } catch (Exception error) {
            scenario.failures.add(error.toString());
        }
        scenario.seconds = Duration.between(from, Instant.now()).toSeconds();
        print(scenario);
    }

    /** Notes a scenario that was not asked for. */
    void skip(String name) {
        add(name).skipped = true;
    }

    /** Prints the table and the closing line; returns whether nothing failed. */
    boolean print() {
        System.out.println("\n" + "-".repeat(72));
        for (Scenario scenario : scenarios) {
            System.out.printf(
                    "%-8s %4d s  %s%n", scenario.result(), scenario.seconds, scenario.name);
        }
        long failed = count("FAILED");
        System.out.printf("%n%d passed, %d failed, %d skipped%n",
                count("passed"), failed, count("skipped"));
        return failed == 0 && count("passed") > 0;
    }

    /** Writes everything as JSON. */
    void write(Path file, Map<String, String> about) throws Exception {
        StringBuilder json = new StringBuilder("{\n");
        about.forEach((name, value) -> json.append("  ")
                .append(quoted(name)).append(": ").append(quoted(value)).append(",\n"));
        json.append("  \"scenarios\": [");
        String separator = "\n";
        for (Scenario scenario : scenarios) {
            json.append(separator).append("    {\"name\": ").append(quoted(scenario.name))
                    .append(", \"result\": ").append(quoted(scenario.result()))
                    .append(", \"seconds\": ").append(scenario.seconds)
                    .append(",\n     \"figures\": {");
            String comma = "";
            for (var figure : scenario.figures.entrySet()) {
                json.append(comma).append(quoted(figure.getKey())).append(": ")
                        .append(quoted(figure.getValue()));
                comma = ", ";
            }
            json.append("},\n     \"failures\": [");
            comma = "";
            for (String failure : scenario.failures) {
                json.append(comma).append(quoted(failure));
                comma = ", ";
            }
            json.append("]}");
            separator = ",\n";
        }
        Files.writeString(file, json.append("\n  ]\n}\n"));
    }

    private synchronized Scenario add(String name) {
        Scenario scenario = new Scenario(name);
        scenarios.add(scenario);
        return scenario;
    }

    private synchronized void print(Scenario scenario) {
        System.out.println("\n" + scenario.result() + ": " + scenario.name);
        scenario.figures.forEach((name, value) -> System.out.println("    " + name + ": " + value));
        scenario.failures.forEach(failure -> System.out.println("    NOT SO: " + failure));
    }

    private long count(String result) {
        return scenarios.stream().filter(scenario -> scenario.result().equals(result)).count();
    }

    private static String quoted(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                quoted.append('\\').append(c);
            } else if (c < 0x20) {
                quoted.append(String.format("\\u%04x", (int) c));
            } else {
                quoted.append(c);
            }
        }
        return quoted.append('"').toString();
    }
}
