"""How fast a training goes, and when it will be done."""

import time


class Pace:
    """How fast a training goes, and when it will be done.

    It counts from ``start``, the step it begins with, to ``total``, at ``batch_size`` pictures a
    step.
    """

    def __init__(self, start: int, total: int, batch_size: int) -> None:
        self.start, self.total, self.batch_size = start, total, batch_size
        self.began = self.reported_at = time.time()
        self.reported = start

    def report(self, done: int) -> tuple[float, str]:
        """Return pictures a second since the last report, and the date and time of the end.

        ``done`` steps are done by now, more than at the last report.
        """
        now = time.time()
        pictures = (done - self.reported) * self.batch_size
        images_per_second = pictures / (now - self.reported_at)
        each = (now - self.began) / (done - self.start)
        self.reported, self.reported_at = done, now
        return images_per_second, time.ctime(self.began + each * (self.total - self.start))

    def elapsed(self) -> str:
        """Return hours:minutes:seconds since the beginning."""
        return time.strftime("%H:%M:%S", time.gmtime(time.time() - self.began))
