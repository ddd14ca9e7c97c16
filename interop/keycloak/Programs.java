import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.HashSet;
import java.util.List;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/** The programs that this run started, all of which end with it; and the ports for them. */
final class Programs {
    private static final Set<Process> RUNNING = ConcurrentHashMap.newKeySet();
    private static final Set<Integer> PORTS = new HashSet<>();
    private static boolean ending;

    private Programs() {}

    static void stopAllAtExit() {
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            synchronized (RUNNING) {
                // The scenarios go on meanwhile, and must not start what nobody would stop.
                ending = true;
            }
            RUNNING.forEach(Programs::stop);
        }));
    }

    /** Starts a program in the background; its output goes to {@code log}. */
    static Process start(ProcessBuilder builder, Path log) throws IOException {
        builder.environment().keySet().removeIf(name -> name.startsWith("JWKS_SERVER_"));
        builder.redirectErrorStream(true);
        builder.redirectOutput(ProcessBuilder.Redirect.appendTo(log.toFile()));
        synchronized (RUNNING) {
            if (ending) {
                throw new IOException("this run is ending");
            }
            Process process = builder.start();
            RUNNING.add(process);
            return process;
        }
    }

    /** Asks the program and what it started to end, and ends them if they do not within 15 s. */
    static void stop(Process process) {
        List<ProcessHandle> all = Stream
                .concat(process.descendants(), Stream.of(process.toHandle()))
                .toList();
        all.forEach(ProcessHandle::destroy);
        try {
            long deadline = System.nanoTime() + Duration.ofSeconds(15).toNanos();
            for (ProcessHandle one : all) {
                while (one.isAlive() && System.nanoTime() < deadline) {
                    Thread.sleep(20);
                }
            }
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        all.forEach(ProcessHandle::destroyForcibly);
        RUNNING.remove(process);
    }

    /** Runs a program to its end, and returns what it printed. */
    static String run(List<String> command) throws Exception {
        ProcessBuilder builder = new ProcessBuilder(command);
        builder.environment().keySet().removeIf(name -> name.startsWith("JWKS_SERVER_"));
        builder.redirectError(ProcessBuilder.Redirect.PIPE);
        Process process = builder.start();
        String printed = new String(process.getInputStream().readAllBytes());
        String errors = new String(process.getErrorStream().readAllBytes());
        if (!process.waitFor(10, TimeUnit.SECONDS) || process.exitValue() != 0) {
            process.destroyForcibly();
            throw new IOException(String.join(" ", command) + ": " + errors.strip());
        }
        return printed;
    }

    /**
     * A loopback port that is free now. It lies below the range from which systems take ports for
     * outgoing connections, so that it stays free while a server is restarted.
     */
    static synchronized int freePort() {
        Random random = new Random();
        for (int tries = 0; tries < 200; tries++) {
            int port = 20_000 + random.nextInt(10_000);
            try {
                new ServerSocket(port, 1, InetAddress.getLoopbackAddress()).close();
                if (PORTS.add(port)) {
                    return port;
                }
            } catch (IOException taken) {
                // The next one, then.
            }
        }
        throw new IllegalStateException("no free loopback port");
    }

    /** Polls until the condition holds; returns how long that took. */
    static Duration await(String what, Duration atMost, Callable<Boolean> condition)
            throws Exception {
        Instant from = Instant.now();
        while (!condition.call()) {
            if (Duration.between(from, Instant.now()).compareTo(atMost) > 0) {
                throw new IllegalStateException(
                        "not within " + atMost.toSeconds() + " s: " + what);
            }
            Thread.sleep(10);
        }
        return Duration.between(from, Instant.now());
    }
}
