"""The contract of every model, as checks of a network: those of the table keep it, and one's own.

A check is given what builds the model, with fresh weights, and raises what says how it is broken.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rayfill.models.base import InpaintingModel
from rayfill_data.errors import RayfillError

Build = Callable[[], InpaintingModel]

SIZES = ((17, 31), (64, 64), (178, 178))

#: Added to fresh weights, so that no answer is the same everywhere for being untrained.
_NOISE = 0.05


class BrokenContractError(RayfillError):
    """A model does not do what every model promises; the message says what."""


def any_size(build: Build) -> None:
    """The prediction has the image's size, whatever that is, and lies in [0, 1] in eval mode."""
    model = _stirred(build).eval()
    for size in SIZES:
        image, hole_mask = sample(*size)
        with torch.inference_mode():
            prediction = model(image, hole_mask)
        _require(
            prediction.shape == image.shape and prediction.dtype == torch.float32,
            f"an image {tuple(image.shape)} gave {tuple(prediction.shape)} {prediction.dtype}",
        )
        low, high = float(prediction.min()), float(prediction.max())
        _require(0 <= low <= high <= 1, f"eval mode gave values from {low:.3g} to {high:.3g}")


def nothing_under_the_hole(build: Build) -> None:
    """What lies under the hole changes no bit of the prediction."""
    image, hole_mask = sample(33, 48)
    other = torch.where(hole_mask > 0, torch.full_like(image, float("nan")), image)
    model = _stirred(build)
    buffers = copy.deepcopy(model.state_dict())
    for training in (False, True):
        model.train(training)
        answers = []
        for shown in (image, other):
            model.load_state_dict(buffers)
            torch.manual_seed(0)
            with torch.no_grad():
                answers.append(model(shown, hole_mask))
        _require(
            torch.equal(*answers) and bool(answers[0].isfinite().all()),
            f"{'training' if training else 'eval'} mode reads the image under the hole",
        )


def finite_for_any_mask(build: Build) -> None:
    """Without a hole, and with nothing but hole, the prediction is finite."""
    image, hole_mask = sample(32, 32)
    model = _stirred(build)
    for value in (0.0, 1.0):
        hole_mask.fill_(value)
        for training in (True, False):
            finite = model.train(training)(image, hole_mask).isfinite().all()
            _require(bool(finite), f"a mask of {value:g} everywhere gave NaN or infinity")


def every_weight_learns(build: Build) -> None:
    """The gradient of a loss reaches every parameter."""
    image, hole_mask = sample(32, 32)
    model = _stirred(build)
    (model(image, hole_mask) - image).square().mean().backward()
    silent = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().sum())
    ]
    _require(not silent, f"no gradient reaches {', '.join(silent[:3])} ({len(silent)} in all)")


def no_state(build: Build) -> None:
    """In eval mode a call changes neither model nor arguments, and the same call answers alike."""
    image, hole_mask = sample(32, 32)
    model = _stirred(build).eval()
    before = copy.deepcopy(model.state_dict())
    given = image.clone(), hole_mask.clone()
    with torch.inference_mode():
        first = model(image, hole_mask)
        model(*sample(48, 64, seed=9))
        again = model(image, hole_mask)
    _require(torch.equal(first, again), "the same call gave another answer in eval mode")
    after = model.state_dict()
    changed = [key for key, value in before.items() if not torch.equal(value, after[key])]
    _require(not changed, f"a call in eval mode changed {', '.join(changed)}")
    unchanged = torch.equal(image, given[0]) and torch.equal(hole_mask, given[1])
    _require(unchanged, "a call changed its arguments")


def any_memory_format(build: Build) -> None:
    """Channels-last weights and images give the same prediction to 1e-4."""
    image, hole_mask = sample(32, 48)
    model = _stirred(build).eval()
    with torch.inference_mode():
        plain = model(image, hole_mask)
        model.to(memory_format=torch.channels_last)
        last = model(image.contiguous(memory_format=torch.channels_last), hole_mask)
    _alike(plain, last, within=1e-4, what="channels-last memory")


def alone_as_in_a_batch(build: Build) -> None:
    """In eval mode a sample is predicted alike by itself and among others, to 1e-4."""
    image, hole_mask = sample(32, 32, batch=3)
    model = _stirred(build).eval()
    with torch.inference_mode():
        batch = model(image, hole_mask)
        alone = torch.cat([model(image[i : i + 1], hole_mask[i : i + 1]) for i in range(3)])
    _alike(batch, alone, within=1e-4, what="other samples of the batch")


def learns(build: Build, *, share: float = 0.5) -> None:
    """Thirty steps of Adam towards a constant leave at most ``share`` of the squared error."""
    torch.manual_seed(0)
    model = build()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    image, hole_mask = sample(16, 16, batch=4)
    target = torch.full_like(image, 0.25)
    losses = []
    for _ in range(30):
        loss = (model(image, hole_mask) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    _require(
        losses[-1] < share * losses[0],
        f"30 steps towards a constant left the loss at {losses[-1]:.3g}, from {losses[0]:.3g}",
    )


def kept_whole(build: Build) -> None:
    """Weights read into a model that was built without memory (meta device) predict alike.

    That is how a bundle is read, and how a network's cost is counted.
    """
    image, hole_mask = sample(32, 32)
    model = _stirred(build).eval()
    with torch.device("meta"), torch.no_grad():
        skeleton = build().eval()
        skeleton(torch.empty(1, 3, 32, 32), torch.empty(1, 1, 32, 32))
    skeleton.load_state_dict(model.state_dict(), assign=True)
    with torch.inference_mode():
        _alike(
            model(image, hole_mask),
            skeleton(image, hole_mask),
            within=1e-5,
            what="being saved and read back (keep constant tensors as buffers)",
        )


#: What each check says of a model that passes.
CHECKS: Mapping[str, Callable[[Build], None]] = {
    "any size in, the same size out, in [0, 1]": any_size,
    "reads nothing under the hole": nothing_under_the_hole,
    "finite for an empty and a full mask": finite_for_any_mask,
    "every weight learns": every_weight_learns,
    "no state between calls": no_state,
    "any memory format": any_memory_format,
    "alone as in a batch": alone_as_in_a_batch,
    "learns a constant": learns,
    "saved and read back whole": kept_whole,
}


def broken(build: Build) -> dict[str, str]:
    """Return every check by name, with what is wrong; empty where it passed."""
    found = {}
    for name, check in CHECKS.items():
        try:
            check(build)
        except RayfillError as error:
            found[name] = str(error)
        except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything
            found[name] = f"{type(error).__name__}: {error}"
        else:
            found[name] = ""
    return found


def sample(height: int, width: int, *, batch: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return noise images (B, 3, H, W) in [0, 1] and a hole mask (B, 1, H, W) with one box."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 3, height, width, generator=generator)
    hole_mask = torch.zeros(batch, 1, height, width)
    hole_mask[..., height // 4 : height // 2, width // 4 : width // 2] = 1
    return image, hole_mask


def _stirred(build: Build) -> InpaintingModel:
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(_NOISE * torch.randn_like(parameter))
    return model


def _alike(one: Tensor, other: Tensor, *, within: float, what: str) -> None:
    away = float((one - other).abs().max())
    _require(away <= within, f"{what} changed the prediction by {away:.3g}")


def _require(kept: bool, otherwise: str) -> None:
    if not kept:
        raise BrokenContractError(f"{otherwise[0].upper()}{otherwise[1:]}.")
