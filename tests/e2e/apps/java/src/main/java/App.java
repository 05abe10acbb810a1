import dev.dbos.transact.DBOS;
import dev.dbos.transact.StartWorkflowOptions;
import dev.dbos.transact.config.DBOSConfig;
import dev.dbos.transact.workflow.Workflow;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Scanner;

/** The application of app.py in Java's SDK, with the same orders on stdin. */
public class App {
  public interface Jobs {
    String job(int steps, double secs) throws Exception;

    String broken();
  }

  public static class JobsImpl implements Jobs {
    private final DBOS dbos;

    JobsImpl(DBOS dbos) {
      this.dbos = dbos;
    }

    @Override
    @Workflow(name = "job")
    public String job(int steps, double secs) throws Exception {
      for (int number = 0; number < steps; number++) {
        int step = number;
        String id = DBOS.workflowId();
        dbos.runStep(
            () -> {
              Thread.sleep((long) (secs * 1000));
              Files.writeString(
                  Path.of(System.getenv("NOTES")),
                  id + " " + step + "\n",
                  StandardOpenOption.CREATE,
                  StandardOpenOption.APPEND);
              return step;
            },
            "work");
      }
      return steps + " steps done";
    }

    @Override
    @Workflow(name = "broken")
    public String broken() {
      throw new IllegalStateException("no such luck");
    }
  }

  public static void main(String[] args) throws Exception {
    URI database = URI.create(System.getenv("APP_DATABASE_URL"));
    String jdbc = "jdbc:postgresql://%s:%d%s";
    DBOSConfig config =
        DBOSConfig.defaults(System.getenv("APP"))
            .withDatabaseUrl(
                jdbc.formatted(database.getHost(), database.getPort(), database.getPath()))
            .withDbUser(database.getUserInfo())
            .withDbPassword("")
            .withAppVersion(System.getenv("APP_VERSION"))
            .withConductorDomain(System.getenv("CONDUCTOR_URL"))
            .withConductorKey(System.getenv("CONDUCTOR_KEY"));
    DBOS dbos = new DBOS(config);
    Jobs jobs = dbos.registerProxy(Jobs.class, new JobsImpl(dbos));
    dbos.launch();
    Scanner orders = new Scanner(System.in);
    while (orders.hasNextLine()) {
      String[] words = orders.nextLine().split(" ");
      StartWorkflowOptions options = new StartWorkflowOptions(words[1]);
      if (words[0].equals("fail")) {
        dbos.startWorkflow(() -> jobs.broken(), options);
      } else {
        int steps = Integer.parseInt(words[2]);
        double secs = Double.parseDouble(words[3]);
        dbos.startWorkflow(() -> jobs.job(steps, secs), options);
      }
    }
    Thread.currentThread().join();
  }
}
