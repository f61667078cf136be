"""Jobs on joblib, or on a cluster of Dask."""

import multiprocessing
from itertools import islice

import cv2
import joblib
import torch

__all__ = ["run_jobs"]


def run_jobs(work, jobs, client):
    """Return work(*job) of each job, in order, by joblib or on a cluster of Dask."""
    if client is None:
        return joblib.Parallel()(joblib.delayed(work)(*job) for job in jobs)
    if not hasattr(client, "nthreads"):
        raise TypeError(
            f"client={client!r}: expected a dask.distributed.Client or None (joblib)."
        )
    return _on_dask(work, jobs, client)


def _on_dask(work, jobs, client):
    """Keep a few jobs under way, and fetch each result as soon as it is there.

    What was fetched is safe from the death of a worker; what was not is done again.
    """
    from distributed import as_completed

    results, numbers = [None] * len(jobs), {}
    waiting, running = iter(enumerate(jobs)), as_completed()

    def fill():
        room = 2 * max(1, sum(client.nthreads().values())) - len(numbers)
        for number, job in islice(waiting, max(0, room)):
            future = client.submit(_run_single_threaded, work, *job, pure=False)
            numbers[future] = number
            running.add(future)

    try:
        fill()
        for future in running:
            results[numbers[future]] = future.result()
            del numbers[future]
            fill()
    finally:
        client.cancel(list(numbers))  # of a run that failed or was interrupted
    return results


def _run_single_threaded(work, *job):
    """Run a job in one thread, where a process has as many jobs as it has cores.

    The caller's own process, in which a cluster may run too, stays as it is.
    """
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
    return work(*job)
