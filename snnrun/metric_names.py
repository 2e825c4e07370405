"""The names of a run's metrics that more than one module reads. Accuracies are shares of 1."""

# Of an epoch.
TRAIN_LOSS, TRAIN_ACCURACY = "train/loss", "train/accuracy"
VALIDATION_ACCURACY, TEST_ACCURACY = "validation/accuracy", "test/accuracy"
EPOCH_SECONDS, CPU_SECONDS = "time/epoch_s", "time/cpu_s"
CURVES = (TRAIN_LOSS, TRAIN_ACCURACY, VALIDATION_ACCURACY, TEST_ACCURACY, EPOCH_SECONDS)

# Of a whole training. `TEST_CHOSEN` is at the epoch that the validation samples chose, `BEST_EPOCH`. The maximum over
# the epochs is chosen on the test samples, as in the papers.
BEST_EPOCH, BEST_VALIDATION = "best_epoch", "validation/accuracy_best"
TEST_CHOSEN, TEST_LAST = "test/accuracy_best_validation", "test/accuracy_last"
TEST_MAXIMUM = "test/accuracy_max_over_epochs"
FINAL_ACCURACIES = (BEST_VALIDATION, TEST_CHOSEN, TEST_LAST, TEST_MAXIMUM)
