"""Services of the node: ``~/set_words``, ``~/reset``, ``~/pause``."""

from __future__ import annotations

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from std_srvs.srv import SetBool, Trigger

from taco.errors import TacoError
from taco_ros.srv import SetWords

WORDS_LIMIT_S = 60.0  # ours: text encoders need seconds for a long list


class Services:
    """Creates the services on a TacoNode. They have a callback group of their own, as encoding words takes a while."""

    def __init__(self, node):
        self._node = node
        group = MutuallyExclusiveCallbackGroup()
        node.create_service(SetWords, "~/set_words", self._set_words, callback_group=group)
        node.create_service(Trigger, "~/reset", self._reset, callback_group=group)
        node.create_service(SetBool, "~/pause", self._pause, callback_group=group)

    def _set_words(self, request, response):
        node = self._node
        if node.live is None:
            response.message = "no models loaded; next: configure the node, or set the parameter models.word_bank"
            return response
        words = tuple(word for word in request.words if word.strip())
        try:
            count = node.worker.wait_for(node.live.set_words, words, limit_s=WORDS_LIMIT_S)
        except (TacoError, OSError, RuntimeError) as error:
            response.message = " ".join(str(error).split())
            return response
        node.show_words(words)
        response.success, response.message = True, f"{count} words in use"
        return response

    def _reset(self, request, response):
        self._node.reset_streams()
        response.success, response.message = True, "sound, last frames and tracks forgotten"
        return response

    def _pause(self, request, response):
        self._node.paused = request.data
        self._node.worker.mailbox.clear()
        response.success, response.message = True, "paused" if request.data else "running"
        return response
