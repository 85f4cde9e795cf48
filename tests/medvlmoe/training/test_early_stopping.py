from medvlmoe.training.early_stopping import EarlyStopping


def epochs_run(values: list[float | None], patience: int) -> tuple[int, int | None]:
    stopping = EarlyStopping(patience)
    for epoch, value in enumerate(values):
        stopping.update(epoch, value)
        if stopping.should_stop:
            return epoch + 1, stopping.best_epoch
    return len(values), stopping.best_epoch


def test_it_stops_after_patience_epochs_without_a_new_best() -> None:
    assert epochs_run([0.5, 0.6, 0.55, 0.6, 0.59, 0.9], patience=3) == (5, 1)


def test_a_new_best_starts_the_wait_anew() -> None:
    assert epochs_run([0.5, 0.4, 0.6, 0.5, 0.7, 0.6], patience=2) == (6, 4)


def test_an_undefined_value_is_no_evidence() -> None:
    assert epochs_run([None] * 10, patience=2) == (10, None)
    assert epochs_run([0.5, None, 0.4, None, 0.3, 0.9], patience=2) == (5, 0)


def test_no_patience_means_no_stop() -> None:
    assert epochs_run([0.5] + [0.1] * 9, patience=0) == (10, 0)


def test_it_goes_on_from_its_state() -> None:
    stopping = EarlyStopping(2)
    stopping.update(0, 0.8)
    stopping.update(1, 0.7)
    again = EarlyStopping(**stopping.to_dict())
    again.update(2, 0.7)
    assert again.should_stop
    assert (again.best_epoch, again.best_value) == (0, 0.8)
